#!/usr/bin/env bash
# Installs what the tests use beside Python: a real Slurm and bubblewrap. Says what it leaves out, and never fails.
set -uo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

declare -A program=(
  [slurm-wlm]=slurmctld [munge]=munged [mariadb-server]=mariadbd [slurmdbd]=slurmdbd [bubblewrap]=bwrap
)
missing=()
for package in "${!program[@]}"; do
  command -v "${program[$package]}" >/dev/null 2>&1 || missing+=("$package")
done
if [ "${#missing[@]}" -eq 0 ]; then
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "install.sh: not root, so not installed: ${missing[*]}; tests that need them are skipped"
  exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
  echo "install.sh: no apt-get here, so not installed: ${missing[*]}; tests that need them are skipped"
  exit 0
fi

# the daemons of the packages must not start: the tests start their own
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
log=$(mktemp)
echo "install.sh: apt-get install ${missing[*]}"
install_packages() { # a package that apt does not know must not keep the others out
  DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1
}
if ! install_packages "${missing[@]}"; then
  timeout 300 apt-get update >>"$log" 2>&1
  for package in "${missing[@]}"; do
    install_packages "$package" || echo "install.sh: apt-get could not install $package: $(tail -n 1 "$log")"
  done
fi
rm -f "$log"
exit 0

#!/usr/bin/env bash
# Runs a command where there is no network but loopback: tests/offline.sh COMMAND...
# `tests/offline.sh --possible` says nothing where this machine allows it, else why not.
set -uo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

# without root the user keeps his name, and the right to set up a network of his own
apart=(unshare --net)
[ "$(id -u)" -eq 0 ] || apart=(unshare --user --map-current-user --keep-caps --net)
inside='ip link set lo up && exec "$@"'

if [ "${1:-}" = --possible ]; then
  reason=$("${apart[@]}" bash -c "$inside" offline true 2>&1) || echo "no network namespace: ${reason##*: }"
  exit 0
fi
exec "${apart[@]}" bash -c "$inside" offline "$@"

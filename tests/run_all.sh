#!/usr/bin/env bash
# All tiers of the tests, one line at the end that says which ran: unit, vllm, slurm, gpu.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
export OMP_NUM_THREADS=1
export PATH="$PATH:/usr/sbin:/sbin"
bash tests/slurm_cluster/install.sh

failed=0
passed_tests=0
failed_tests=0
skipped_tests=0
line="tiers:"
around=() # a command that the tests of a tier are run by

# tier NAME REASON-IF-IT-CANNOT-RUN PYTEST-ARGUMENTS...
tier() {
  local name=$1 impossible=$2
  shift 2
  if [ -n "$impossible" ]; then
    line="$line $name=skipped($impossible)"
    return
  fi
  echo "== tier $name"
  local log
  log=$(mktemp)
  "${around[@]}" "$bin/python" -m pytest -q "$@" 2>&1 | tee "$log"
  local code=${PIPESTATUS[0]}
  local ran
  ran=$(grep -oE '[0-9]+ passed' "$log" | tail -1 | cut -d' ' -f1)
  passed_tests=$((passed_tests + ${ran:-0}))
  failed_tests=$((failed_tests + $(grep -oE '[0-9]+ (failed|error)' "$log" | awk '{s+=$1} END {print s+0}')))
  skipped_tests=$((skipped_tests + $(grep -oE '[0-9]+ skipped' "$log" | awk '{s+=$1} END {print s+0}')))
  rm -f "$log"
  if [ "$code" -ne 0 ] || [ -z "$ran" ]; then
    failed=1
    line="$line $name=FAILED"
  else
    line="$line $name=ran"
  fi
}

without() { command -v "$1" >/dev/null 2>&1 || echo "no $1"; }

# what needs no server of another kind must need no network either: this tier has loopback and nothing else
no_offline=$(tests/offline.sh --possible)
[ -n "$no_offline" ] || around=(tests/offline.sh)
tier unit "" -n 2 --dist loadgroup -m "not vllm and not slurm and not gpu and not long and not online"
line="$line offline=$([ -n "$no_offline" ] && echo "skipped($no_offline)" || echo unit)"
around=()
tier online "$(ip route show default 2>/dev/null | grep -q . || echo "no network")" -m online
small=llm.model=smollm2-135m-instruct
no_vllm=$("$bin/arch-search" doctor --impossible vllm "$small")
[ -n "$no_vllm" ] || "$bin/arch-search" prefetch "$small"
tier vllm "$no_vllm" -m "vllm and not slurm and not long"
# mostly waiting: two clusters at a time
tier slurm "$(without slurmctld)" -n 2 --dist loadfile -m "slurm and not long"
tier gpu "$([ -e /dev/nvidia0 ] || echo "no GPU")" -m gpu

# The README's lint and types are part of what must hold.
"$bin/ruff" check . && "$bin/ruff" format --check . && "$bin/mypy" || failed=1

if [ "$failed" -ne 0 ] && [ "$failed_tests" -eq 0 ]; then failed_tests=1; fi
echo "$line"
echo "$passed_tests passed, $failed_tests failed, $skipped_tests skipped"
exit "$failed"

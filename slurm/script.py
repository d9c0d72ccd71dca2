"""The batch script of an array element: runs its line, hands signals on, and asks Slurm to start it again."""

from __future__ import annotations

import shlex
from pathlib import Path

# what a command exits with when it has saved its work and wants to be run again
COME_BACK = 4
# scontrol is called three times, each within this limit and with a pause after it
REQUEUE_LIMIT_S = 20
REQUEUE_PAUSES_S = (1, 3, 5)

# one function: a shell that runs a trap while it still reads the script can lose its place in it
_SCRIPT = """\
hand_on() {{
    asked=$1 signals=$((signals + 1))
    [ -z "$worker" ] || kill -s "$1" "$worker" 2>/dev/null || :
}}
run_element() {{
    asked= urgent= signals=0 worker= code=0
    line="$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {commands})"
    [ -n "$line" ] || {{ echo "no command for element $SLURM_ARRAY_TASK_ID" >&2; exit 1; }}
    trap 'hand_on USR1' USR1
    trap 'urgent=yes; hand_on TERM' TERM
    eval "$line" &
    worker=$!
    [ -z "$asked" ] || hand_on "$asked"
    while :; do
        seen=$signals
        wait "$worker" && code=0 || code=$?
        # a signal ends `wait` before the worker has ended
        [ "$signals" = "$seen" ] && break
    done
    trap '' USR1
    if [ -n "$asked" ]; then
        # killed by the signal before it could listen; or its code is lost, as shells do when it ends at that moment
        case "$code" in
            -1 | 127) code={come_back} ;;
            129 | 1[3-9]?) case "$(kill -l "$code")" in USR1 | TERM) code={come_back} ;; esac ;;
        esac
    fi
{requeue}    exit "$code"
}}
run_element"""
# after SIGTERM Slurm itself has decided: a cancelled element must stay cancelled, a preempted one is requeued by Slurm
_REQUEUE = """\
    if [ "$code" -eq {come_back} ] && [ -z "$urgent" ]; then
        element="${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
        for pause in {pauses_s}; do
            timeout {limit_s} scontrol requeue "$element" && exit 0
            sleep "$pause"
        done
        echo "element $element could not be requeued; it is left to the next round" >&2
    fi
"""


def element_script(commands: Path, *, requeue: bool) -> str:
    """Shell text that runs the line of this array element in the background and exits as it does.

    USR1 and TERM go to the worker. Where it exits with COME_BACK and the time limit was the reason, the element is
    requeued; where that fails it exits with COME_BACK.

    Args:
        commands: one line of shell per element, the first for element 0.
    """
    requeue_text = _REQUEUE.format(
        come_back=COME_BACK, pauses_s=" ".join(map(str, REQUEUE_PAUSES_S)), limit_s=REQUEUE_LIMIT_S
    )
    return _SCRIPT.format(
        commands=shlex.quote(str(commands)), come_back=COME_BACK, requeue=requeue_text if requeue else ""
    )

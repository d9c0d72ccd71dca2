"""`python -m tests.slurm_cluster.faults [--short] [--lanes N] [ROW...]`: the fault table, or single rows of it."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from dataclasses import asdict
from functools import partial

from tests.slurm_cluster.cluster import missing_programs
from tests.slurm_cluster.faults.rows import ROWS
from tests.slurm_cluster.faults.table import Kept, Outcome, Row, run_table, try_row
from tests.slurm_cluster.faults.undisturbed import KEPT, prepared, state_of_sources

# rows mostly wait: for a node to be given up, for a limit, for slurmctld to come back
LANES = 3
_RUNNING: set[subprocess.Popen[str]] = set()


def main() -> int:
    options = _options()
    if options.list:
        for row in ROWS.values():
            print(f"{row.name:<26} {row.fault}: {row.must_hold}")
        return 0
    # so that a run that is ended takes its clusters down
    signal.signal(signal.SIGTERM, _end)
    if missing := missing_programs():
        print(f"Slurm is not installed ({', '.join(missing)}): run tests/slurm_cluster/install.sh as root")
        return 1
    if options.outcome:
        (name,) = options.rows
        print(json.dumps(asdict(try_row(ROWS[name], is_short=options.short))))
        return 0
    prepared()  # once, before rows want it at the same time
    all_hold = run_table(
        [ROWS[name] for name in options.rows or ROWS],
        kept=Kept(KEPT / ("outcomes-short.json" if options.short else "outcomes.json"), state_of_sources()),
        again=bool(options.rows),
        attempt=partial(_try_apart, is_short=options.short),
        lanes=options.lanes,
        say=lambda line: print(line, flush=True),
    )
    return 0 if all_hold else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.slurm_cluster.faults")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="none: the whole table, without rows that held before")
    parser.add_argument("--short", action="store_true", help="the forms that the tests run, with fewer repetitions")
    parser.add_argument("--list", action="store_true", help="only say what the rows are")
    parser.add_argument("--lanes", type=int, default=LANES, help=f"rows at once, each on its own cluster; {LANES}")
    parser.add_argument("--outcome", action="store_true", help="try one row and print its outcome as JSON")
    options = parser.parse_args()
    if unknown := sorted(set(options.rows) - set(ROWS)):
        parser.error(f"no row {', '.join(unknown)}; there are: {', '.join(ROWS)}")
    if options.outcome and len(options.rows) != 1:
        parser.error("--outcome takes one ROW")
    return options


def _try_apart(row: Row, *, is_short: bool) -> Outcome:
    """The row in a process of its own, so that rows at the same time share nothing but the machine."""
    command = [sys.executable, "-m", "tests.slurm_cluster.faults", "--outcome", row.name]
    with subprocess.Popen([*command, *["--short"] * is_short], stdout=subprocess.PIPE, text=True) as process:
        _RUNNING.add(process)
        said, _ = process.communicate()
        _RUNNING.discard(process)
    if process.returncode != 0:
        return Outcome(row=row.name, holds=False, seconds=0.0, detail=f"its process ended with {process.returncode}")
    return Outcome(**json.loads(said.splitlines()[-1]))


def _end(number: int, _: object) -> None:
    for process in tuple(_RUNNING):
        process.terminate()
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.slurm_cluster.faults [--short] [ROW...]`: the fault table, or single rows of it."""

from __future__ import annotations

import argparse
import signal
import sys

from tests.slurm_cluster.cluster import missing_programs
from tests.slurm_cluster.faults.rows import ROWS
from tests.slurm_cluster.faults.table import Kept, run_table
from tests.slurm_cluster.faults.undisturbed import KEPT, state_of_sources


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slurm_cluster.faults")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="none: the whole table, without rows that held before")
    parser.add_argument("--short", action="store_true", help="the forms that the tests run, with fewer repetitions")
    parser.add_argument("--list", action="store_true", help="only say what the rows are")
    options = parser.parse_args()
    unknown = sorted(set(options.rows) - set(ROWS))
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are: {', '.join(ROWS)}")
    if options.list:
        for row in ROWS.values():
            print(f"{row.name:<26} {row.fault}: {row.must_hold}")
        return 0
    # so that a run that is ended takes its cluster down
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if missing := missing_programs():
        print(f"Slurm is not installed ({', '.join(missing)}): run tests/slurm_cluster/install.sh as root")
        return 1
    chosen = [ROWS[name] for name in options.rows or ROWS]
    name = "outcomes-short.json" if options.short else "outcomes.json"
    kept = Kept(KEPT / name, state_of_sources())
    all_hold = run_table(
        chosen, kept=kept, again=bool(options.rows), is_short=options.short, say=lambda line: print(line, flush=True)
    )
    return 0 if all_hold else 1


if __name__ == "__main__":
    sys.exit(main())

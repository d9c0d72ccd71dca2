"""`python -m arch_search.worker MANIFEST INDEX`: what an array element runs."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from arch_search.errors import ArchSearchError
from arch_search.worker.stop import StopRequest
from arch_search.worker.supervisor import run_pack
from cognition_db.experience.errors import StoreError

FAILED, WRONG_USE = 1, 2
# SIGTERM: Slurm's end; SIGUSR1 and SIGUSR2: warnings before it; SIGINT: Ctrl-C at a laptop
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or not arguments[1].isdigit():
        print("usage: python -m arch_search.worker MANIFEST INDEX", file=sys.stderr)
        return WRONG_USE
    stop = StopRequest()
    stop.listen(STOP_SIGNALS)
    try:
        return run_pack(Path(arguments[0]), int(arguments[1]), stop=stop)
    except (ArchSearchError, StoreError) as error:
        print(f"worker: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

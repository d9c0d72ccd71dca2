"""Planning, submitting and tracking large generations against recorded answers of Slurm, in growing sizes.

Run: python tests/benchmarks/bench_slurm_scale.py [candidates ...]     default: 1000 10000 100000

Each size runs in a process of its own, so that its memory is its own. The exponent of a row is that of its growth from
the second largest to the largest size.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arch_search.campaign import Campaign
from arch_search.commands.status import status
from arch_search.dispatch import Dispatcher
from arch_search.generation import admitted, read_tries
from arch_search.launching import make_launcher
from cognition_db.experience.files import write_atomic
from cognition_db.records import Candidate
from slurm.files import Desk, arrays_of
from slurm.units import Submission
from tests.benchmarks.recorded_slurm import (
    SCRATCH,
    RecordedSlurm,
    acknowledge_tries,
    begin_units,
    cpu_s,
    keep_table,
    large_campaign,
    made_candidates,
    queue_rows,
    write_tries,
)

SIZES = [1000, 10_000, 100_000]
ARRAY = 1000  # elements of an array, a usual MaxArraySize
RUNNING = 500
REPEATS = 3
PROGRAMS, PLAN, TRIES = "programs written once", "round planned and submitted", "tries read at each tick"
WAITING, PARTLY = "look, all waiting", "look, a tenth done, 500 running"
MEMORY, FILES, STATUS, COMMAND = "driver memory, MB", "files per array (see below)", "status, warm", "status command"
WALL = "status command, wall"


def main(sizes: list[int]) -> None:
    rows = [_measured_apart(size) for size in sizes]
    lines = [f"{'CPU seconds, or as said':34}{''.join(f'{size:>11,}' for size in sizes)}{'exponent':>10}"]
    for name in rows[0]:
        values = [row[name] for row in rows]
        lines.append(f"{name:34}{''.join(f'{value:>11.3f}' for value in values)}{_exponent(sizes, values):>10}")
    lines += [
        "",
        f"One training for each candidate, arrays of {ARRAY} elements, campaign folder on {SCRATCH or 'disk'}.",
        "Wanted: exponents at most 1.05, driver memory below 1024 MB, status below 2 s.",
        "Files per array: its commands and its job id, and its share of the submission's plan, of submitit's one",
        "script for all arrays and of the note on what squeue does not know.",
    ]
    keep_table("slurm_scale", lines)


def measure(size: int) -> dict[str, float]:
    """Seconds of each step for one generation of `size` candidates, and the memory of the driver."""
    with tempfile.TemporaryDirectory(dir=SCRATCH) as name:
        slurm = RecordedSlurm(Path(name) / "slurm", max_array_size=ARRAY)
        with slurm.on_path():
            campaign = large_campaign(Path(name) / "c", f"campaign.slots.mutation={size}")
            return _measure(campaign, made_candidates(size), slurm)


def _measure(campaign: Campaign, candidates: list[Candidate], slurm: RecordedSlurm) -> dict[str, float]:
    paths, size = campaign.generation(1), len(candidates)
    dispatcher = Dispatcher(campaign, make_launcher(campaign), lambda event: None)

    def advance() -> None:
        dispatcher.advance(1, candidates, target_parameters=1_000_000, step_s=lambda: None)

    found = {PROGRAMS: cpu_s(lambda: _write_programs(campaign, candidates)), PLAN: cpu_s(advance)}
    submission = Submission.from_json(json.loads(paths.submission(1).read_text())["submission"])
    arrays = arrays_of(submission)
    slurm.set_queue(queue_rows(arrays, submission.comment, done=0, running=0))
    found[WAITING] = _median(advance)
    begin_units(campaign, submission.units, done=size // 10, running=RUNNING)
    slurm.set_queue(queue_rows(arrays, submission.comment, done=size // 10, running=RUNNING))
    found[PARTLY] = _median(advance)
    found[MEMORY] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found[FILES] = len(list(Desk(paths.units, submission.comment).root.iterdir())) / len(arrays)
    acknowledge_tries(campaign, candidates)
    found[STATUS] = _median(lambda: status(campaign))
    command = [sys.executable, "-m", "arch_search.cli", "status", str(campaign.paths.root)]
    found[COMMAND] = _median(lambda: subprocess.run(command, check=True, capture_output=True))
    found[WALL] = _median(lambda: subprocess.run(command, check=True, capture_output=True), _wall_s)
    write_tries(campaign, candidates)
    found[TRIES] = cpu_s(lambda: admitted(read_tries(paths)))
    return found


def _write_programs(campaign: Campaign, candidates: list[Candidate]) -> None:
    for candidate in candidates:
        write_atomic(campaign.generation(1).program(candidate.id), candidate.program.encode())


def _measured_apart(size: int) -> dict[str, float]:
    code = f"import json; from tests.benchmarks.bench_slurm_scale import measure; print(json.dumps(measure({size})))"
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _exponent(sizes: list[int], values: list[float]) -> str:
    if len(sizes) < 2 or min(values[-2:]) <= 0:
        return "-"
    return f"{math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2]):.2f}"


def _median(work: Callable[[], object], measure: Callable[[Callable[[], object]], float] | None = None) -> float:
    return statistics.median((measure or cpu_s)(work) for _ in range(REPEATS))


def _wall_s(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or SIZES)

"""What the benchmarks of scale share: client programs of Slurm that print recorded answers, and large campaigns."""

from __future__ import annotations

import gc
import json
import os
import platform
import resource
import subprocess
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from arch_search.campaign import Campaign, start_or_continue
from arch_search.reporting import current_results
from arch_search.settings import load_config
from cognition_db.records import Candidate, Proposal, SlotTry, canonical_json, sha256_text, to_json
from slurm.units import ArrayJob

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
_CONFIG = REPOSITORY / "tests" / "slurm" / "recorded" / "scontrol_config.txt"
# /dev/shm: a disk's own time for each fsync says nothing of the program
SCRATCH = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


class RecordedSlurm:
    """Programs in `folder/bin` that answer as recorded; `sbatch` counts job ids up, `squeue` prints what is set."""

    def __init__(self, folder: Path, *, max_array_size: int) -> None:
        self._folder = folder
        programs = folder / "bin"
        programs.mkdir(parents=True)
        recorded = _CONFIG.read_text()
        for key, value in (("MaxArraySize", max_array_size), ("MaxJobCount", 1_000_000)):
            before, mark, rest = recorded.partition(f"\n{key}")
            recorded = f"{before}{mark}            = {value}\n{rest.partition(chr(10))[2]}"
        (folder / "config").write_text(recorded)
        (folder / "count").write_text("1000\n")
        self.set_queue("")
        counting = f"read n < '{folder}/count'; n=$((n + 1)); echo $n > '{folder}/count'; echo Submitted batch job $n"
        for name, body in (
            ("sbatch", counting),
            ("squeue", f"exec cat '{folder}/queue'"),
            ("scontrol", f"exec cat '{folder}/config'"),
            ("sacctmgr", "echo not here >&2; exit 1"),
            ("sacct", "exit 0"),
            ("scancel", "exit 0"),
            ("srun", "exit 0"),
        ):
            (programs / name).write_text(f"#!/bin/sh\n{body}\n")
            (programs / name).chmod(0o755)

    @contextmanager
    def on_path(self) -> Iterator[None]:
        """These programs before those of the machine, and no least time between two calls."""
        before = dict(os.environ)
        os.environ |= {"PATH": f"{self._folder / 'bin'}:{before['PATH']}", "ARCH_SEARCH_POLL_LEAST_S": "0.001"}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def set_queue(self, rows: Iterable[str] | str) -> None:
        (self._folder / "queue").write_text("".join(f"{row}|.\n" for row in rows))


def queue_rows(arrays: Sequence[ArrayJob], comment: str, *, done: int, running: int) -> Iterator[str]:
    """What squeue prints while the first `done` units are over, the next `running` run and the rest waits."""
    for array in arrays:
        first = min(max(done - array.offset, 0), array.count)
        last = min(max(done + running - array.offset, 0), array.count)
        # a running element has a row of its own, waiting ones are one list
        for index in range(first, last):
            yield f"{array.job_id}|{index}|RUNNING|None|{array.job_id}|{comment}"
        if last < array.count:
            yield f"{array.job_id}|{last}-{array.count - 1}|PENDING|Priority|{array.job_id}|{comment}"


def large_campaign(folder: Path, *overrides: str) -> Campaign:
    """A campaign of one training for each candidate on a cluster, with no generation trained yet."""
    settings = (
        "campaign=smoke",
        "slurm=cluster",
        "slurm.poll_s=0.001",
        "slurm.estimate_time=false",
        "llm=recorded",
        f"llm.recording={REPOSITORY / 'tests' / 'data' / 'recorded_replies.jsonl'}",
        "campaign.seeds_per_candidate=1",
        "campaign.reference_seeds=1",
        f"campaign.dir={folder}",
    )
    return start_or_continue(load_config([*settings, *overrides]), command=["benchmark"], base=folder.parent)


def made_candidates(count: int) -> list[Candidate]:
    """Candidates that differ in one line; the text is as long as that of a typical program."""
    filler = "".join(f"    # line {line} of a program of this length\n" for line in range(60))
    return [_candidate(index, f"class DeltaNet:\n    number = {index}\n{filler}") for index in range(count)]


def _candidate(index: int, program: str) -> Candidate:
    return Candidate(
        id=sha256_text(program)[:16],
        program=program,
        class_name="DeltaNet",
        name=f"g1.{index}",
        arm="mutate",
        rung="mutation",
        generation=1,
        slot=index,
        parents=("0" * 16,),
        motivation="",
        parameter_count=1_000_000,
    )


def acknowledge_tries(campaign: Campaign, candidates: Sequence[Candidate]) -> None:
    """The journal of a campaign whose generation 0 is closed and whose generation 1 has all these candidates."""
    campaign.journal.close()
    known = campaign.paths.journal.read_bytes().count(b"\n")
    lines = [
        {"kind": "try", "data": {"attempt": 0, "candidate": one.id, "generation": 1, "sha256": "0" * 64, "slot": slot}}
        for slot, one in enumerate(candidates)
    ]
    lines.append({"kind": "generation-closed", "data": {"archive_sha256": "0" * 64, "generation": 0}})
    with campaign.paths.journal.open("ab") as file:
        for seq, line in enumerate(lines, known + 1):
            text = canonical_json({**line, "seq": seq, "unix": time.time()}).encode()
            file.write(b"%08x %d %s\n" % (zlib.crc32(text), len(text), text))
    campaign.paths.results.write_text(canonical_json(current_results(campaign)))


def write_tries(campaign: Campaign, candidates: Sequence[Candidate]) -> None:
    """A file for each slot, as the proposer leaves them."""
    slots = campaign.generation(1).slots
    slots.mkdir(parents=True, exist_ok=True)
    for slot, candidate in enumerate(candidates):
        proposal = Proposal(
            generation=1, slot=slot, attempt=0, arm="mutate", rung="mutation", parents=candidate.parents, seed=slot,
            program=candidate.program,
        )  # fmt: skip
        one = SlotTry(proposal=proposal, verdicts=(), candidate=candidate)
        campaign.generation(1).slot_try(slot, 0).write_text(canonical_json(to_json(one)))


def begin_units(campaign: Campaign, units: Sequence[str], *, done: int, running: int) -> None:
    """Leave what workers leave: shard and record of the first `done` units, a heartbeat of the next `running`."""
    paths = campaign.generation(1)
    paths.shards.mkdir(parents=True, exist_ok=True)
    for unit in units[:done]:
        paths.unit(unit).root.mkdir(parents=True, exist_ok=True)
        record = {"ending": "finished", "wall_s": 100.0, "task": {"attempt": 1}}
        (paths.unit(unit).root / f"{'0' * 16}-smoke-s0.json").write_text(json.dumps(record))
        paths.shard(unit, 1).touch()
    for unit in units[done : done + running]:
        paths.unit(unit).root.mkdir(parents=True, exist_ok=True)
        paths.unit(unit).lock.touch()
        paths.unit(unit).heartbeat.write_text(json.dumps({"task": f"{unit}-s0", "attempt": 1, "wall_s": 50.0}))


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of this process and of the programs it waited for: a neighbour's load does not count."""
    gc.collect()  # garbage of what was measured before
    before = _used_s()
    work()
    return _used_s() - before


def _used_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def keep_table(name: str, lines: Sequence[str]) -> None:
    """Print the table and write it to results/<name>.md with machine, date and commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    ).stdout.strip()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    head = (
        f"{time.strftime('%Y-%m-%d %H:%M')}, commit {commit or 'unknown'}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores ({platform.machine()}), load {load}"
    )
    text = "\n".join([head, "", *lines, ""])
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(f"```\n{text}```\n")

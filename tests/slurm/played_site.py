"""A site whose client programs play recorded answers of a real Slurm, or whatever a test makes them do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from slurm import ArrayJob, ClusterLauncher, Evidence, Resources, Submission, WorkUnit

RECORDED = Path(__file__).parent / "recorded"
RESOURCES = Resources(cpus_per_task=1, memory_gb=1, timeout_min=5)
NOTHING: Callable[[str], Evidence] = lambda unit: Evidence(done=False)  # noqa: E731


class Clock:
    """Seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """A PATH whose squeue, sacct and scontrol play recordings, and count how often they were called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "bin"
        self.folder.mkdir()
        self.clock = Clock()
        monkeypatch.setenv("PATH", f"{self.folder}:/usr/bin:/bin")
        self.play("scontrol", "scontrol_config.txt")
        self.play("sacct", "sacct_later.txt")

    def play(self, program: str, recording: str) -> None:
        self.act(program, f"cat '{RECORDED / recording}'")

    def act(self, program: str, text: str) -> None:
        path = self.folder / program
        path.write_text(f'#!/bin/bash\necho >> "{self.folder}/{program}.calls"\n{text}\n')
        path.chmod(0o755)

    def calls(self, program: str) -> int:
        path = self.folder / f"{program}.calls"
        return len(path.read_text()) if path.exists() else 0

    def launcher(self, poll_s: float = 10.0) -> ClusterLauncher:
        return ClusterLauncher(RESOURCES, poll_s=poll_s, clock=self.clock)


def submission(folder: Path, comment: str, *, job_id: str, count: int) -> Submission:
    return Submission(
        kind="cluster", name="asx-test", comment=comment, folder=str(folder), submitted_unix=999_000.0,
        units=tuple(unit.name for unit in units(count)), arrays=(ArrayJob(job_id=job_id, offset=0, count=count),),
    )  # fmt: skip


def units(count: int) -> tuple[WorkUnit, ...]:
    return tuple(WorkUnit(name=f"u{index:02d}", index=index) for index in range(count))

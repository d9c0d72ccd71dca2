"""What the tests of whole campaigns share: a small campaign whose replies were recorded from a real model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from cognition_db.experience.archive import ArchiveContents, read_archive

RECORDING = Path(__file__).parents[1] / "data" / "recorded_replies.jsonl"
SMALL = ("campaign=smoke", "slurm=inline", "llm=recorded", f"llm.recording={RECORDING}")


def arch_search(*arguments: str, cwd: Path, limit_s: float = 600) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does, in `cwd`."""
    return subprocess.run(
        [sys.executable, "-m", "arch_search.cli", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=limit_s, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """The same in the background, in a process group of its own; its output goes to cwd/out.txt."""
    with (cwd / "out.txt").open("a") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "arch_search.cli", *arguments],
            cwd=cwd, stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def kill(driver: subprocess.Popen[str]) -> None:
    """SIGKILL to the driver alone: what it started must end by itself."""
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()


def descendants(pid: int) -> list[int]:
    """Processes started by `pid`, and by those."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def archive(cwd: Path, name: str = "smoke-001") -> ArchiveContents:
    return read_archive(cwd / "campaigns" / name / "archive.h5")


def measured(contents: ArchiveContents) -> dict[str, dict[str, float]]:
    """Scores by training, without those that tell time; equal runs must agree in them to the last bit."""
    return {
        one.task.key: {score.name: score.value for score in one.scores if score.name != "step_s"}
        for one in contents.evaluations
    }

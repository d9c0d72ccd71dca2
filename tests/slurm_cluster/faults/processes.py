"""The processes of trainings, seen from /proc: whom to kill, and whether one training ever ran twice at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_S = 0.25
# a child takes so long to leave after its measurement was recorded, or after a newer start took its place
_LEAVING_S = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    arguments: tuple[str, ...]


def is_killed(status: str) -> bool:
    """Whether SIGKILL waits for the process of this /proc/PID/status: it ends as soon as a file is synced."""
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (signal.SIGKILL - 1) & 1 for mask in masks)


def processes() -> Iterator[Process]:
    """Every living process that can be read."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            if state != "Z" and not is_killed((entry / "status").read_text()):
                yield Process(int(entry.name), int(parent), tuple(words))


def supervisors(folder: Path) -> list[Process]:
    """Processes of `python -m arch_search.worker MANIFEST INDEX` whose manifest lies below `folder`."""
    return [
        one
        for one in processes()
        if one.arguments[1:3] == ("-m", "arch_search.worker") and one.arguments[3].startswith(str(folder))
    ]


def trainings(folder: Path) -> dict[int, Path]:
    """Pid of each training child below `folder`, with the folder of its start, in that of its task."""
    return {
        one.pid: Path(one.arguments[4])
        for one in processes()
        if one.arguments[1:4] == ("-P", "-m", "arch_search.worker.child") and one.arguments[4].startswith(str(folder))
    }


def descendants(pid: int) -> list[int]:
    """Processes started by `pid`, and by those, nearest first."""
    children: dict[int, list[int]] = {}
    for one in processes():
        children.setdefault(one.parent, []).append(one.pid)
    found, waiting = [], [pid]
    while waiting:
        mine = children.get(waiting.pop(0), [])
        found += mine
        waiting += mine
    return found


def batch_script(pid: int) -> int | None:
    """The batch script that a process was started by, None where it is gone."""
    known = {one.pid: one for one in processes()}
    while (one := known.get(pid)) is not None:
        if any("slurm_script" in word for word in one.arguments):
            return pid
        pid = one.parent
    return None


def kill(pid: int, sign: signal.Signals = signal.SIGKILL) -> bool:
    """Whether the process was still there to get the signal."""
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return False
    return True


class TrainingWatch:
    """Looks four times a second at which trainings run below a folder, from `with` to its end.

    `doubled`: trainings with two children at once, or with one after their measurement was recorded, for longer than
    a child needs to leave; with the starts of these children, by pid.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._surplus_since: dict[Path, float] = {}
        self.doubled: dict[str, str] = {}

    def __enter__(self) -> TrainingWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        children = trainings(self._folder)
        tasks = [start.parent for start in children.values()]
        surplus = {task for task in tasks if tasks.count(task) > 1 or task.with_name(f"{task.name}.json").exists()}
        self._surplus_since = {task: self._surplus_since.get(task, now) for task in surplus}
        for task, since in self._surplus_since.items():
            if now - since > _LEAVING_S:
                starts = [f"{start.name} (pid {pid})" for pid, start in children.items() if start.parent == task]
                recorded = ", recorded" if task.with_name(f"{task.name}.json").exists() else ""
                self.doubled.setdefault(task.name, f"{', '.join(starts)}{recorded}, {now - since:.1f} s")

"""The ledger of a task: each start of its child and how far it came, so that one that gets nowhere is found out."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from arch_search.paths import UnitPaths
from arch_search.worker.claims import Start
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.records import from_json, to_json

STARTS_WITHOUT_PROGRESS = 3
# kills in the first seconds say nothing of a task, but one that gets itself killed must come to an end as well
KILLS_WITHOUT_PROGRESS = 12
FAIR_START_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One start of a child. Steps are of its checkpoints, counted over both phases; `ended` is empty while unknown.

    `tells`: that it made no progress says something of the task: it was not ended from outside within FAIR_START_S.
    """

    unix: float
    job: str  # job id / restart count of Slurm, or the process id of the supervisor
    host: str
    began_step: int
    reached_step: int
    ended: str = ""
    tells: bool = True


class Ledger:
    """All starts of one task; this supervisor writes those of its own into a file of its own."""

    def __init__(self, paths: UnitPaths, key: str, start: Start) -> None:
        self._path = paths.ledger(key, start.name)
        self._earlier = _launches_before(paths, key, start)
        self._own: list[Launch] = []

    @property
    def launches(self) -> tuple[Launch, ...]:
        return (*self._earlier, *self._own)

    def begin(self) -> None:
        """A child is about to start; durable before it does, so that no death is forgotten."""
        known = self.launches
        step = known[-1].reached_step if known else 0
        launch = Launch(
            unix=time.time(), job=job_name(), host=platform.node(), began_step=step, reached_step=step, tells=False
        )
        self._own.append(launch)
        self._write()

    def reach(self, step: int) -> None:
        """The child has a checkpoint of this step."""
        if step > self._own[-1].reached_step:
            self._own[-1] = replace(self._own[-1], reached_step=step)
            self._write()

    def live(self) -> None:
        """The start has had its FAIR_START_S."""
        if not self._own[-1].tells:
            self._own[-1] = replace(self._own[-1], tells=True)
            self._write()

    def end(self, how: str, *, from_outside: bool) -> None:
        last = self._own[-1]
        self._own[-1] = replace(last, ended=how, tells=last.tells or not from_outside)
        self._write()

    def discount(self) -> None:
        """A failure of ours ended the child: this start says nothing of the task."""
        self._own.pop()
        self._write()

    def _write(self) -> None:
        write_atomic(self._path, json.dumps([to_json(launch) for launch in self._own]).encode())


def stuck_cause(launches: Sequence[Launch]) -> str | None:
    """Why a task is not to be started again: its last starts saved no step beyond what was saved before them."""
    best, fruitless = 0, list[Launch]()
    for launch in launches:
        if launch.reached_step > best:
            best, fruitless = launch.reached_step, []
        else:
            fruitless.append(launch)
    if sum(launch.tells for launch in fruitless) < STARTS_WITHOUT_PROGRESS and len(fruitless) < KILLS_WITHOUT_PROGRESS:
        return None
    endings = "; ".join(dict.fromkeys(launch.ended or "killed together with its supervisor" for launch in fruitless))
    return f"{len(fruitless)} starts without progress: no checkpoint beyond step {best} ({endings})"


def has_progressed(paths: UnitPaths, attempt: int) -> bool:
    """Whether this attempt of the unit brought it forward: a step saved, or a task recorded."""
    for path in paths.root.glob(f"*/a{attempt}-*.json"):
        if any(launch.reached_step > launch.began_step for launch in _read(path)):
            return True
    return any(_attempt_of(path) == attempt for path in paths.root.glob("*-s*.json"))


def job_name() -> str:
    """Job id / restart count of Slurm; outside of a job the process id and 0."""
    job = os.environ.get("SLURM_JOB_ID") or f"pid{os.getpid()}"
    return f"{job}/{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def _launches_before(paths: UnitPaths, key: str, start: Start) -> tuple[Launch, ...]:
    try:
        starts = [Start.parse(name.removesuffix(".json")) for name in os.listdir(paths.task(key))]
    except OSError:
        return ()
    older = sorted({one for one in starts if one is not None and one < start})
    return tuple(launch for one in older for launch in _read(paths.ledger(key, one.name)))


def _read(path: Path) -> tuple[Launch, ...]:
    """The starts in one file; none where it is damaged."""
    try:
        return tuple(from_json(Launch, launch) for launch in read_json(path))
    except (StoreError, ValidationError, TypeError):
        return ()


def _attempt_of(evaluation: Path) -> int | None:
    try:
        return int(read_json(evaluation)["task"]["attempt"])
    except (StoreError, KeyError, TypeError, ValueError):
        return None

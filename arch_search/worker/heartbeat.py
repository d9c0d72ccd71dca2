"""The heartbeat: what a supervisor is doing, rewritten about every second; also its memory across restarts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.records import from_json, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """`wall_s` and `cpu_s` belong to the task named here and add up over restarts; `loss` is None before a step."""

    unit: str
    attempt: int
    tasks: int
    tasks_done: int
    task: str  # key of the running task
    phase: str
    step: int
    steps: int
    loss: float | None
    wall_s: float
    cpu_s: float
    started_unix: float
    unix: float
    host: str
    pid: int


def write_heartbeat(path: Path, heartbeat: Heartbeat) -> None:
    write_atomic(path, json.dumps(to_json(heartbeat)).encode())


def read_heartbeat(path: Path) -> Heartbeat | None:
    """The last heartbeat, or None where there is none that can be read."""
    try:
        return from_json(Heartbeat, read_json(path))
    except (StoreError, ValidationError):
        return None

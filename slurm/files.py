"""Durable small files, and the plan of a submission: everything needed to go on with it after a crash."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from slurm.errors import SlurmError


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for, written before anything is started; `commands[i]` belongs to `units[i]`.

    `array_elements` is the size of each job array but the last; 0 for local processes.
    """

    name: str
    comment: str
    submitted_unix: float
    units: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str]
    array_elements: int = 0


class Desk:
    """The files of one submission: `folder/<key>/`, where the key is a hash of its comment.

    plan.json           the Plan
    <unit>.lock         held with flock by the local process of the unit, from its first to its last instant
    <unit>.started      local: the unit was started, and its pid
    <unit>.exit         inline: the unit was run to its end, and its exit code
    cancelled           nothing more is to be started
    missing.json        cluster: since when Slurm has not known a unit as active
    <offset>.commands   cluster: one shell line per element of the array that starts at this unit
    """

    def __init__(self, folder: Path, comment: str) -> None:
        self.folder = folder
        self.key = hashlib.sha256(comment.encode()).hexdigest()[:12]
        self.root = folder / self.key

    @property
    def cancelled(self) -> Path:
        return self.root / "cancelled"

    @property
    def missing(self) -> Path:
        return self.root / "missing.json"

    def lock(self, unit: str) -> Path:
        return self.root / f"{unit}.lock"

    def started(self, unit: str) -> Path:
        return self.root / f"{unit}.started"

    def exit(self, unit: str) -> Path:
        return self.root / f"{unit}.exit"

    def commands(self, offset: int) -> Path:
        return self.root / f"{offset}.commands"

    def log(self, unit: str) -> Path:
        """Output of the unit, appended by every attempt; beside the folders of all submissions."""
        return self.folder / f"{unit}.log"

    def write_plan(self, plan: Plan) -> None:
        write_atomic(self.root / "plan.json", json.dumps(asdict(plan)).encode())

    def read_plan(self) -> Plan | None:
        """The plan, or None when submit never came so far; raises SlurmError for a damaged one."""
        path = self.root / "plan.json"
        try:
            data = json.loads(path.read_bytes())
            commands = tuple(tuple(command) for command in data["commands"])
            return Plan(**{**data, "units": tuple(data["units"]), "commands": commands})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise SlurmError(f"{path}: not the plan of a submission ({error}); the file is damaged") from error


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step and make it durable; the folder is made. Raises SlurmError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise SlurmError(f"{path}: can't be written: {error.strerror}; make room or check the rights") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # some network file systems can't sync a folder; they order names by themselves
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)

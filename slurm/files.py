"""Durable small files, and the plan of a submission: everything needed to go on with it after a crash."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from slurm.errors import SlurmError
from slurm.units import ArrayJob, Order, Submission

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for, written before anything is started; `commands[i]` belongs to `units[i]`.

    `timeout_min`: wall time of each unit, None for what the resources say.
    """

    name: str
    comment: str
    submitted_unix: float
    units: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str]
    timeout_min: int | None = None

    @classmethod
    def of(cls, order: Order, *, unix: float) -> Plan:
        """The plan of an order that was first asked for at `unix`, in seconds since 1970."""
        return cls(
            name=order.name,
            comment=order.comment,
            submitted_unix=unix,
            units=tuple(unit.name for unit in order.units),
            commands=tuple(tuple(order.command(unit.index)) for unit in order.units),
            environment=dict(order.environment),
            timeout_min=order.timeout_min,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """An array that is about to be submitted. An sbatch that finds another `token` in its place does nothing."""

    offset: int
    count: int
    token: str
    written_unix: float


class Desk:
    """The files of one submission: `folder/<key>/`, where the key is a hash of its comment.

    plan.json           the Plan
    <unit>.lock         held with flock by the local process of the unit, from its first to its last instant
    <unit>.started      local: the unit was started, and its pid
    <unit>.exit         inline: the unit was run to its end, and its exit code
    cancelled           nothing more is to be started
    missing.json        cluster: since when Slurm has not known a unit as active
    <offset>.commands   cluster: one shell line per element of the array that starts at this unit
    <offset>.intent     cluster: this array is about to be submitted; gone when its job id is known
    <offset>.job        cluster: the ArrayJob
    submit.lock         cluster: held with flock by a living sbatch
    """

    def __init__(self, folder: Path, comment: str) -> None:
        self.folder = folder
        self.comment = comment
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

    @property
    def submit_lock(self) -> Path:
        return self.root / "submit.lock"

    def commands(self, offset: int) -> Path:
        return self.root / f"{offset}.commands"

    def intent(self, offset: int) -> Path:
        return self.root / f"{offset}.intent"

    def job(self, offset: int) -> Path:
        return self.root / f"{offset}.job"

    def log(self, unit: str) -> Path:
        """Output of the unit, appended by every attempt; beside the folders of all submissions."""
        return Path(self.log_name(unit))

    def log_name(self, unit: str) -> str:
        """The same as text: a Path costs more than all else about a unit."""
        return f"{self.folder}/{unit}.log"

    def write_plan(self, plan: Plan) -> None:
        data = {name: getattr(plan, name) for name in Plan.__slots__}
        write_atomic(self.root / "plan.json", json.dumps(data).encode())

    def read_plan(self) -> Plan | None:
        """The plan, or None when submit never came so far; raises SlurmError for a damaged one."""
        path = self.root / "plan.json"
        data = _read_json(path, "the plan of a submission")
        if data is None:
            return None
        try:
            return Plan(
                name=data["name"],
                comment=data["comment"],
                submitted_unix=data["submitted_unix"],
                units=tuple(data["units"]),
                commands=tuple(map(tuple, data["commands"])),
                environment=data["environment"],
                timeout_min=data.get("timeout_min"),
            )
        except (KeyError, TypeError) as error:
            raise SlurmError(f"{path}: not the plan of a submission ({error}); the file is damaged") from error

    def write_intent(self, intent: Intent) -> None:
        data = {name: getattr(intent, name) for name in Intent.__slots__}
        write_atomic(self.intent(intent.offset), json.dumps(data).encode())

    def write_job(self, job: ArrayJob) -> None:
        """Put the job id on record; then nothing is about to be submitted any more."""
        data = {name: getattr(job, name) for name in ArrayJob.__slots__}
        write_atomic(self.job(job.offset), json.dumps(data).encode())
        self.intent(job.offset).unlink(missing_ok=True)

    def read_intents(self) -> list[Intent]:
        """Arrays of which nobody has noted whether they were submitted, by offset; raises SlurmError for damage."""
        jobs = {path.stem for path in self._files(".job")}
        return [_made_from(Intent, path) for path in self._files(".intent") if path.stem not in jobs]

    def read_jobs(self) -> list[ArrayJob]:
        """The arrays that were submitted, by offset; raises SlurmError for damage."""
        return [_made_from(ArrayJob, path) for path in self._files(".job")]

    def _files(self, suffix: str) -> list[Path]:
        if not self.root.is_dir():
            return []
        with os.scandir(self.root) as entries:
            names = [entry.name.removesuffix(suffix) for entry in entries if entry.name.endswith(suffix)]
        return [self.root / f"{offset}{suffix}" for offset in sorted(int(name) for name in names if name.isdigit())]


def arrays_of(submission: Submission) -> tuple[ArrayJob, ...]:
    """The job arrays of a submission by offset, with those that were submitted after its receipt was written."""
    desk = Desk(Path(submission.folder), submission.comment)
    found = {job.offset: job for job in (*submission.arrays, *desk.read_jobs())}
    return tuple(found[offset] for offset in sorted(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tidied:
    """How many files were removed: of this package, and of submitit."""

    ours: int
    submitit: int


def tidy(submission: Submission) -> Tidied:
    """Remove what nothing needs once every unit has its result: of an array its job id and what it printed stay.

    An element that starts after this ends at once; its unit has its result.
    """
    root = Desk(Path(submission.folder), submission.comment).root
    removed = {True: 0, False: 0}
    for path in root.iterdir() if root.is_dir() else ():
        is_submitit = path.name.endswith("_submission.sh")
        is_empty_output = path.suffix == ".out" and path.stat().st_size == 0
        if is_submitit or is_empty_output or path.suffix in (".commands", ".lock") or path.name == "missing.json":
            path.unlink(missing_ok=True)
            removed[is_submitit] += 1
    return Tidied(ours=removed[False], submitit=removed[True])


def is_held(lock: Path) -> bool:
    """Whether a living process of this host holds the lock; a missing file is held by nobody."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


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


def _read_json(path: Path, what: str) -> Any:
    """What the file holds, None where there is none; raises SlurmError for damage."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SlurmError(f"{path}: not {what} ({error}); the file is damaged") from error


def _made_from(kind: type[Record], path: Path) -> Record:
    what = f"an {kind.__name__}"
    try:
        return kind(**_read_json(path, what))
    except TypeError as error:
        raise SlurmError(f"{path}: not {what} ({error}); the file is damaged") from error

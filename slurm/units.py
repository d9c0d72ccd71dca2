"""Work units: what is handed to a launcher, how one stands, and the receipt for a batch of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any


class UnitState(Enum):
    """How a work unit stands. Only a result file makes DONE; what can't be known is UNKNOWN, never DONE or ENDED."""

    WAITING = "waiting"  # will start by itself
    RUNNING = "running"  # alive, or over for so short a time that its result may not be visible yet
    DONE = "done"  # its result is there
    ENDED = "ended"  # not alive, and no result
    HELD = "held"  # will not start by itself; the note of the launcher says what to do
    UNKNOWN = "unknown"  # nobody answered


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkUnit:
    """One thing to run. `name` is unique in its campaign and safe as a file name; `index` is what `command` gets."""

    name: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the files of a unit say, whatever Slurm says.

    `done`: its result is there. `running`: its lock is held by a living process. `heartbeat_unix`: when it last
    said that it lives, seconds since 1970 by the clock of its node.
    """

    done: bool
    running: bool = False
    heartbeat_unix: float | None = None


Probe = Callable[[str], Evidence]  # name of a unit -> what its files say
Command = Callable[[int], list[str]]  # index of a unit -> its argument list


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a launcher is asked to run.

    `command` gives the argument list of a unit by its index; `environment` is added to what a unit inherits. `folder`
    takes the logs (<unit>.log) and the files of the launcher. `name` begins the names of its jobs; `comment` names the
    submission for ever. `timeout_min` is the wall time of a unit where the launcher sets one; None is what its
    resources say.
    """

    units: tuple[WorkUnit, ...]
    command: Command
    folder: Path
    name: str
    comment: str
    environment: Mapping[str, str]
    timeout_min: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one array element asks of Slurm. None leaves the choice to the site.

    `gres` is Slurm's text, as "gpu:1", and `gpus_per_task` as "1" or "a100:1"; `warn_s` seconds before its time limit
    the element gets SIGUSR1; `requeue`: Slurm may start it again; `setup` are shell lines before the command
    ("module load ..."); `extra_sbatch` are further options without dashes in front, True for an option without value.
    """

    cpus_per_task: int
    memory_gb: float
    timeout_min: int
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    gpus_per_task: str | None = None
    warn_s: int = 120
    requeue: bool = True
    mail_user: str | None = None
    mail_type: str | None = None
    setup: tuple[str, ...] = ()
    extra_sbatch: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayJob:
    """One job array: element i runs unit `offset + i` of the submission, for 0 <= i < count."""

    job_id: str
    offset: int
    count: int
    submitted_unix: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The receipt of one submit. `units` are names in order.

    `arrays` are the job arrays submitted by then; slurm.files.arrays_of also knows those that came later. Empty for
    local processes.
    """

    kind: str
    name: str
    comment: str
    folder: str
    submitted_unix: float
    units: tuple[str, ...]
    arrays: tuple[ArrayJob, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Submission:
        """The receipt that to_json gave; raises KeyError or TypeError for anything else."""
        arrays = tuple(ArrayJob(**array) for array in data["arrays"])
        return cls(**{**data, "units": tuple(data["units"]), "arrays": arrays})

"""The folder of one task: what the supervisor puts in, what the jailed child leaves, and how that is read safely.

Text crosses as size-capped JSON, arrays as raw bytes of a size known beforehand: nothing a child wrote is parsed by
more than that. The child may write here and nowhere else.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from arch_search.config import Stage
from arch_search.contract import Contract
from arch_search.errors import JailError
from arch_search.jail.files import read_from_jail
from cognition_db.experience.files import write_atomic
from cognition_db.records import Certificate, from_json, to_json

EXIT_STOPPED = 75  # the child wrote a checkpoint and left because it was asked to
EXIT_OURS = 70  # the child failed before or beside the program: full disk, missing corpus
MAX_JSON_BYTES = 200_000
MAX_CURVE_POINTS = 1000

Phase = Literal["recall", "language_model"]
Ints = npt.NDArray[np.int64]
Message = TypeVar("Message")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the child is to do. Labels of the recall questions are not in it; nothing is `asked` without that probe."""

    stage: Stage
    contract: Contract
    seed: int
    class_name: str
    target_parameters: int
    train_path: str
    vocab: int
    token_bytes: int
    asked: tuple[int, ...]
    prefix_positions: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the child stands; for the watcher and for people, never for scores."""

    phase: Phase
    step: int
    steps: int
    loss: float
    step_s: float
    cpu_s: float
    saved_step: int  # of the last checkpoint of this phase, 0: none


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildResult:
    """How the child says its work ended; the curve is that of the language model."""

    ending: Literal["finished", "non_finite", "tampered", "crashed", "out_of_memory"]
    cause: str = ""
    curve_steps: tuple[int, ...] = ()
    curve_loss: tuple[float, ...] = ()
    tokens_seen: int = 0
    parameter_count: int = 0
    resumed_from_step: int = 0  # counted over both phases
    step_s: float = 0.0
    certificate: Certificate | None = None
    operators: tuple[str, ...] = ()  # `operator=path` of each that ran, as gated_delta_rule=triton


@dataclass(frozen=True, slots=True)
class TaskFolder:
    root: Path

    @property
    def order(self) -> Path:
        return self.root / "task.json"

    @property
    def program(self) -> Path:
        return self.root / "program.py"

    @property
    def recall_inputs(self) -> Path:
        return self.root / "recall_inputs.npy"

    @property
    def windows(self) -> Path:
        return self.root / "heldout_windows.npy"

    @property
    def stop(self) -> Path:
        """The supervisor makes it to ask the child for a checkpoint and an end."""
        return self.root / "stop"

    @property
    def progress(self) -> Path:
        return self.root / "progress.json"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    @property
    def recall_answers(self) -> Path:
        """int64 [N, K]; its presence says that the recall phase is over."""
        return self.root / "recall_answers.i8"

    @property
    def heldout_nll(self) -> Path:
        """float32 [N, T]."""
        return self.root / "heldout_nll.f4"

    @property
    def prefix_nll(self) -> Path:
        """float32 [P]."""
        return self.root / "prefix_nll.f4"

    @property
    def compiled(self) -> Path:
        """What torch's compiler made of this program; only its own child reads it."""
        return self.root / "compiled"

    def checkpoint(self, phase: Phase) -> Path:
        return self.root / f"{phase}.pt"


def write_message(path: Path, message: object) -> None:
    write_atomic(path, json.dumps(to_json(message)).encode())


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Raw little-endian bytes, no header."""
    write_atomic(path, np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())


def write_npy(path: Path, array: npt.NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def read_message(path: Path, kind: type[Message]) -> Message | None:
    """The message of `kind` in a file of the child; None where it is missing, too long or no such message."""
    try:
        return from_json(kind, json.loads(read_from_jail(path.parent, path.name, max_bytes=MAX_JSON_BYTES)))
    except (JailError, ValueError, RecursionError):
        return None


def read_array(path: Path, *, shape: tuple[int, ...], dtype: Literal["<i8", "<f4"]) -> npt.NDArray[Any] | None:
    """The raw array in a file of the child; None unless it has exactly the bytes that `shape` needs."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        data = read_from_jail(path.parent, path.name, max_bytes=size)
    except JailError:
        return None
    return np.frombuffer(data, dtype=dtype).reshape(shape) if len(data) == size else None

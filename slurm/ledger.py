"""The ledger of calls: when squeue and sacct were asked and what they said, shared by all programs of a campaign."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_LOOK_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The last call of a program. No other is due for `pause_s`; `failures` were made in a row up to it."""

    asked_unix: float
    pause_s: float
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a program printed to the question of that time, or why it did not."""

    asked_unix: float
    problem: str | None
    text: str


class Ledger:
    """Files <program>.lock, .call and .reply in `folder`; without a folder everything stays in memory.

    A folder that can't be written (a full disk) costs the sharing, never the answer.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._calls: dict[str, Call] = {}

    @contextmanager
    def turn(self, program: str, *, wait_s: float) -> Iterator[bool]:
        """Hold the right to call a program; False where another process has it for longer than `wait_s`."""
        handle = self._open_lock(program)
        try:
            yield handle is None or _is_locked(handle, wait_s)
        finally:
            if handle is not None:
                os.close(handle)

    def last_call(self, program: str) -> Call | None:
        """The last call by anybody; None where there was none or its note is damaged."""
        mine = self._calls.get(program)
        if self._folder is None:
            return mine
        try:
            shared = Call(**json.loads((self._folder / f"{program}.call").read_bytes()))
        except (OSError, ValueError, TypeError):
            return mine
        return shared if mine is None or shared.asked_unix >= mine.asked_unix else mine

    def note_call(self, program: str, call: Call) -> None:
        self._calls[program] = call
        self._write(f"{program}.call", json.dumps(asdict(call)).encode())

    def keep(self, program: str, reply: Reply) -> None:
        head = json.dumps({"asked_unix": reply.asked_unix, "problem": reply.problem})
        self._write(f"{program}.reply", f"{head}\n{reply.text}".encode())

    def reply(self, program: str, *, after_unix: float | None) -> Reply | None:
        """The shared reply, where it is newer than that of `after_unix`: an answer never gives way to an older one."""
        if self._folder is None:
            return None
        try:
            with (self._folder / f"{program}.reply").open(encoding="utf-8", newline="") as file:
                head = json.loads(file.readline())
                asked_unix = float(head["asked_unix"])
                if after_unix is not None and asked_unix <= after_unix:
                    return None
                return Reply(asked_unix=asked_unix, problem=head["problem"], text=file.read())
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def _open_lock(self, program: str) -> int | None:
        if self._folder is None:
            return None
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            return os.open(self._folder / f"{program}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        return None

    def _write(self, name: str, data: bytes) -> None:
        if self._folder is None:
            return
        temporary = self._folder / f".{name}.{os.getpid()}"
        # not made durable: after a power cut the next call only comes too early
        with suppress(OSError):
            temporary.write_bytes(data)
            temporary.replace(self._folder / name)


def _is_locked(handle: int, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_AGAIN_S)
        except OSError:
            # a file system without locks: two programs may then ask at the same moment
            return True
        else:
            return True

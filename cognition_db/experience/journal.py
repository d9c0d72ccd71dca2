"""The journal: one writer appends acknowledgements, each a line with length and checksum, synced before it counts.

A line is `crc32 length json`, with the checksum in hexadecimal over the JSON bytes and the length in bytes:
`1c291ca3 62 {"data":{"round":1},"kind":"submitted","seq":7,"unix":1750000000.5}`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cognition_db.experience.errors import JournalError, StoreError
from cognition_db.experience.files import failed_write, sync_folder, write_all, write_atomic
from cognition_db.records import canonical_json

_HEADER = re.compile(rb"([0-9a-f]{8}) ([1-9][0-9]{0,11}) ")
_PART_OF_HEADER = re.compile(rb"[0-9a-f]{0,8}|[0-9a-f]{8} (?:[1-9][0-9]{0,11})?")
# a power cut leaves runs of zero bytes where data never reached the disk; a flipped bit leaves at most one
_HOLE = b"\0" * 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One acknowledged fact; `seq` counts from 1 without a gap, `unix` is the writer's clock in seconds."""

    seq: int
    unix: float
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalContents:
    """All entries, and the length of an unfinished last line, which was never acknowledged and is left out."""

    entries: tuple[Entry, ...]
    torn_bytes: int
    good_bytes: int


class Journal:
    """The one writer of a journal file; an unfinished last line is cut off on opening (see `torn_bytes`).

    `require_writer` is called before each line and raises where this process may no longer write.

    Raises:
        JournalError: another process has the file open for writing, or a line before the last is damaged.
        NoSpaceError: the disk is full; the file ends with its last acknowledged line.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path)
        self.require_writer: Callable[[], None] = _nothing
        self._clock = clock
        self._guard = threading.Lock()
        self._descriptor = _open_for_append(self.path)
        try:
            _lock(self._descriptor, self.path)
            contents = read(self.path)
            if contents.torn_bytes:
                os.ftruncate(self._descriptor, contents.good_bytes)
                os.fsync(self._descriptor)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.torn_bytes = contents.torn_bytes
        self._seq = len(contents.entries)
        self._size = contents.good_bytes

    def append(self, kind: str, data: Mapping[str, Any]) -> Entry:
        """Write one entry; when this returns, the entry survives a power cut."""
        self.require_writer()
        with self._guard:
            if self._descriptor < 0:
                raise JournalError(f"{self.path}: closed, or a write failed before; open the journal again")
            entry = Entry(seq=self._seq + 1, unix=self._clock(), kind=kind, data=dict(data))
            line = _frame(entry)
            try:
                write_all(self._descriptor, line)
                os.fsync(self._descriptor)
            except OSError as error:
                # what a failed sync left on the disk is unknown, so the next opening has to look at the file again
                with suppress(OSError):
                    os.ftruncate(self._descriptor, self._size)
                self._close()
                raise failed_write(self.path, error, size=len(line)) from error
            self._seq += 1
            self._size += len(line)
            return entry

    def close(self) -> None:
        with self._guard:
            self._close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read(path: Path) -> JournalContents:
    """Every acknowledged entry; a missing file is an empty journal. Safe while a writer appends.

    Raises:
        JournalError: a line is damaged that is not an unfinished last one (line number and file are named).
    """
    try:
        text = Path(path).read_bytes()
    except FileNotFoundError:
        return JournalContents(entries=(), torn_bytes=0, good_bytes=0)
    except OSError as error:
        raise StoreError(f"{path}: can't be read: {error.strerror}") from error
    entries: list[Entry] = []
    start = 0
    while start < len(text):
        end = text.find(b"\n", start) + 1
        line = text[start : end or len(text)]
        entry = _entry(line, seq=len(entries) + 1)
        if entry is None:
            is_last = start + len(line) == len(text)
            if is_last and _is_torn(line):
                break
            raise JournalError(
                f"{path}: line {len(entries) + 1} is damaged (length, checksum or sequence number is wrong); "
                "restore the file from a copy, nothing was changed"
            )
        entries.append(entry)
        start += len(line)
    return JournalContents(entries=tuple(entries), torn_bytes=len(text) - start, good_bytes=start)


def shut_out_writer(path: Path) -> None:
    """Put a copy in the place of the file: a writer that still has it open writes into nothing, and holds no lock."""
    if path.exists():
        write_atomic(path, path.read_bytes())


def _nothing() -> None:
    """Nobody else can have become the writer."""


def _frame(entry: Entry) -> bytes:
    body = {"seq": entry.seq, "unix": entry.unix, "kind": entry.kind, "data": entry.data}
    text = canonical_json(body).encode("utf-8")
    return b"%08x %d %s\n" % (zlib.crc32(text), len(text), text)


def _entry(line: bytes, *, seq: int) -> Entry | None:
    header = _HEADER.match(line)
    if header is None or not line.endswith(b"\n"):
        return None
    text = line[header.end() : -1]
    if len(text) != int(header[2]) or zlib.crc32(text) != int(header[1], 16):
        return None
    body = json.loads(text)
    return Entry(**body) if body["seq"] == seq else None


def _is_torn(line: bytes) -> bool:
    """Whether an interrupted append can have left this; a whole line with a flipped bit is damage, not a tear."""
    if _HOLE in line:
        return True
    if line.endswith(b"\n"):
        return False
    written = line.rstrip(b"\0")
    header = _HEADER.match(written)
    if header is None:
        return _PART_OF_HEADER.fullmatch(written) is not None
    return len(line) <= header.end() + int(header[2])


def _open_for_append(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        sync_folder(path.parent)
    except OSError as error:
        raise failed_write(path, error, size=0) from error
    return descriptor


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise JournalError(f"{path}: another process writes this journal; end it first") from error
    except OSError as error:
        # without locks on the file system the driver's lease alone keeps writers apart
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise failed_write(path, error, size=0) from error

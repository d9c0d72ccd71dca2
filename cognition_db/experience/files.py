"""Durable files: a reader sees the old content or the new, never a part, also after a power cut."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cognition_db.experience.errors import NoSpaceError, StoreError

# EFBIG is what a process gets at its own file size limit
_FULL = {
    errno.ENOSPC: "no space left on the file system",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "file size limit reached",
}
_TEMPORARY = re.compile(r"\..+\.(?P<host>[A-Za-z0-9_-]*)\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp")
_DAY_S = 86_400.0


def write_atomic(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Put `data` at `path` in one step and make it durable; parent folders are made.

    The bytes go to a temporary file in the same folder, which is synced and then renamed over `path`. On any
    failure the old content of `path` stays and the temporary file is removed. `mode` is limited by the umask.

    Raises:
        NoSpaceError: the disk or the quota is full.
        StoreError: any other failure of the file system.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        _make_folder(path.parent)
        try:
            _write_synced(temporary, data, mode)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise failed_write(path, error, size=len(data)) from error


def read_json(path: Path) -> Any:
    """The JSON value in the file; raises StoreError when it is missing, unreadable or not JSON."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise StoreError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(f"{path}: not JSON ({error}); the file is damaged or not ours") from error


def is_temporary_of(found: Path, path: Path) -> bool:
    """Whether `found` is what a writer of `path`, alive or killed, has in the same folder until it is renamed."""
    return found.name.startswith(f".{path.name}.") and _TEMPORARY.fullmatch(found.name) is not None


def remove_stale_temporaries(folder: Path, *, clock: Callable[[], float] = time.time) -> tuple[Path, ...]:
    """Delete what killed writers left in `folder` (not below it), and say which files those were.

    A temporary file goes when its writer was a process of this host that no longer lives, or after a day.
    """
    removed = []
    for path in sorted(Path(folder).glob(".*.tmp")):
        name = _TEMPORARY.fullmatch(path.name)
        if name is None:
            continue
        with suppress(FileNotFoundError):
            orphaned = name["host"] == _host() and not _is_alive(int(name["pid"]))
            if orphaned or clock() - path.stat().st_mtime > _DAY_S:
                path.unlink()
                removed.append(path)
    return tuple(removed)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte: a call may write fewer than it was given and say so only by its result."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems can't sync a folder and say EINVAL; they order names by themselves
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def failed_write(path: Path, error: OSError, *, size: int) -> StoreError:
    """The one-line error for a write of `size` bytes to `path` that the file system refused."""
    reason = _FULL.get(error.errno or 0)
    if reason is not None:
        return NoSpaceError(f"{path}: {reason} while writing {size} bytes; make room, then run the same command again")
    return StoreError(f"{path}: can't be written: {error.strerror}")


def unwritable_reason(error: BaseException | None) -> str | None:
    """Why nothing can be written for now, where a full or read-only file system is behind the error; else None.

    Such a failure says nothing of what was to be written: it passes when somebody makes room.
    """
    while error is not None:
        if isinstance(error, NoSpaceError):
            return str(error)
        if isinstance(error, OSError) and error.errno in (*_FULL, errno.EROFS):
            return _FULL.get(error.errno, "the file system is read-only")
        error = error.__cause__ or error.__context__
    return None


def _write_synced(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:40]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

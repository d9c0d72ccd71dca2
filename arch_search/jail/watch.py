"""What a process tree and its folder use, read by the watchdog outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from arch_search.jail.guard import descendants

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BLOCK_BYTES = 512  # of st_blocks, whatever the file system
_DEEPEST = 32
_LOOKED_INTO = 1000  # processes of a tree that may multiply faster than this reads


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeUse:
    """`memory_mb` counts anonymous and shared memory, not the mapped libraries; `tasks` processes and threads."""

    tasks: int
    memory_mb: float
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderUse:
    """`files` counts every name below the folder, `disk_mb` what is allocated. An end of the count is a lower bound."""

    files: int
    disk_mb: float
    is_hidden: bool


def folder_use(folder: Path, *, enough: int, root: int) -> FolderUse:
    """Use of `folder` and of files that the processes below `root` hold open without a name; stops at `enough` names.

    A subfolder that cannot be listed or lies deeper than 32 levels makes the count hidden: files in it cost nothing
    that this could see.
    """
    files, blocks, is_hidden = 0, 0, False
    for entry in _below(None, str(folder), depth=0):
        if entry is None:
            is_hidden = True
            break
        files += 1
        blocks += entry.st_blocks
        if files >= enough:
            break
    blocks += sum(_nameless(root).values())
    return FolderUse(files=files, disk_mb=blocks * _BLOCK_BYTES / 2**20, is_hidden=is_hidden)


def tree_use(root: int, *, enough: int, doubtful_mb: float) -> TreeUse:
    """Use of what is below `root`, of at least `enough` processes where there are so many; a moving picture.

    Memory that processes share after a fork is counted once where the quick sum is above `doubtful_mb`: the exact
    figure costs milliseconds a process.
    """
    tasks, memory_kb, ticks = 0, 0, 0
    pids = descendants(root, enough=enough)
    for pid in pids:
        stat, status = _read(pid, "stat"), _read(pid, "status")
        fields = stat.rpartition(b")")[2].split()
        if not fields:
            continue
        tasks += int(fields[17])
        ticks += sum(int(field) for field in fields[11:15])
        memory_kb += _kilobytes(status, b"RssAnon:") + _kilobytes(status, b"RssShmem:")
    if memory_kb / 1024 > doubtful_mb:
        memory_kb = sum(_own_share_kb(pid) for pid in pids)
    return TreeUse(tasks=tasks, memory_mb=memory_kb / 1024, cpu_s=ticks / _TICKS_PER_S)


def user_tasks(uid: int) -> int:
    """Processes and threads of `uid` on this machine: what RLIMIT_NPROC is compared with."""
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return count


def _entries(folder: int, *, depth: int) -> Iterator[os.stat_result | None]:
    """What lies below the open folder, by descriptors: a path could be too long or be replaced. None where hidden."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError:
                    yield None
                    return
                yield found
                if S_ISDIR(found.st_mode):
                    yield from _below(folder, entry.name, depth=depth + 1)
    finally:
        os.close(folder)


def _below(folder: int | None, name: str, *, depth: int) -> Iterator[os.stat_result | None]:
    if depth > _DEEPEST:
        yield None
        return
    try:
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        yield None
        return
    yield from _entries(below, depth=depth)


def _nameless(root: int) -> dict[tuple[int, int], int]:
    """Blocks of removed files that are still open, by device and inode."""
    found: dict[tuple[int, int], int] = {}
    for pid in descendants(root, enough=_LOOKED_INTO):
        for descriptor in _descriptors(pid):
            try:
                file = os.stat(f"/proc/{pid}/fd/{descriptor}")
            except OSError:
                continue
            if S_ISREG(file.st_mode) and file.st_nlink == 0:
                found[file.st_dev, file.st_ino] = file.st_blocks
    return found


def _descriptors(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []


def _own_share_kb(pid: int) -> int:
    shares = _read(pid, "smaps_rollup")
    if b"Pss_Anon:" in shares:
        return _kilobytes(shares, b"Pss_Anon:") + _kilobytes(shares, b"Pss_Shmem:")
    status = _read(pid, "status")
    return _kilobytes(status, b"RssAnon:") + _kilobytes(status, b"RssShmem:")


def _read(pid: int, name: str) -> bytes:
    """Empty where the process has ended or may not be looked into."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _kilobytes(status: bytes, field: bytes) -> int:
    # a zombie has no such line
    _, found, rest = status.partition(field)
    return int(rest.split(maxsplit=1)[0]) if found else 0

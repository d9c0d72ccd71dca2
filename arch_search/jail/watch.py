"""What a process tree uses, read from /proc by the watchdog outside."""

from __future__ import annotations

import os
from dataclasses import dataclass

from arch_search.jail.guard import descendants

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeUse:
    """`memory_mb` counts anonymous and shared memory, not the mapped libraries; `tasks` processes and threads."""

    tasks: int
    memory_mb: float
    cpu_s: float


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

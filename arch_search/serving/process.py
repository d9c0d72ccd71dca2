"""Processes known by pid and start time, so that a pid given to somebody else is never taken for ours."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stat:
    state: str
    session: int
    start_ticks: int


def start_ticks(pid: int) -> int | None:
    """Clock ticks between boot and the start of the process; None where there is no such process."""
    stat = _stat(pid)
    return stat.start_ticks if stat else None


def is_running(pid: int, ticks: int) -> bool:
    """Whether the process that started at `ticks` as `pid` still runs; one that waits to be reaped does not."""
    stat = _stat(pid)
    return stat is not None and stat.start_ticks == ticks and stat.state not in "ZX"


def stop_session(leader: int, ticks: int, *, grace_s: float) -> None:
    """End the session of `leader` (SIGTERM, after `grace_s` SIGKILL), also what outlived its leader.

    Nothing is touched where another process has taken the pid.
    """
    if start_ticks(leader) not in (None, ticks):
        return
    _signal_all(_members(leader), signal.SIGTERM)
    # a stopped process sees the first signal only when it goes on
    _signal_all(_members(leader), signal.SIGCONT)
    deadline = time.monotonic() + grace_s
    while _members(leader) and time.monotonic() < deadline:
        time.sleep(0.1)
    while members := _members(leader):
        _signal_all(members, signal.SIGKILL)
        time.sleep(0.05)


def _members(session: int) -> list[int]:
    """Living processes of the session; a child of ours that ended is reaped here."""
    with suppress(ChildProcessError):
        os.waitpid(session, os.WNOHANG)
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            stat = _stat(int(entry.name))
            if stat is not None and stat.session == session and stat.state not in "ZX":
                members.append(int(entry.name))
    return members


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # the name in parentheses may hold spaces and parentheses; fields are counted from behind it
    fields = text.rpartition(")")[2].split()
    return _Stat(state=fields[0], session=int(fields[3]), start_ticks=int(fields[19]))

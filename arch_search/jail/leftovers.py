"""What a killed guard leaves behind: it reaps its tree no more, so the tree is found by the home it was given."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PAUSE_S = 0.02
_QUIET_LOOKS = 2  # a process that forks while /proc is read is seen at the next look
_LIMIT_S = 10.0


def kill_leftovers(folder: Path) -> bool:
    """Kill every process that was started with `folder` as its HOME; False where some survive for ten seconds.

    bubblewrap asks for its death with its parent's only after it has built the jail: a guard that is killed in that
    moment leaves a program that would train beside its successor. A program that rewrites its own environment is not
    found.
    """
    until = time.monotonic() + _LIMIT_S
    quiet = 0
    while quiet < _QUIET_LOOKS:
        found = list(_at_home(folder))
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        quiet = 0 if found else quiet + 1
        if time.monotonic() > until:
            return False
        time.sleep(_PAUSE_S)
    return True


def _at_home(folder: Path) -> Iterator[int]:
    mark = b"HOME=" + os.fsencode(folder)
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError):
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    yield int(name)

"""Kills a driver at one step of what it does; Python reads this by itself from a folder on PYTHONPATH.

KILL_BEFORE is a part of the name of a file: the driver dies before it puts that in its place. KILL_AT_STEP is the
number of the step of a submission before which it dies, STEPS the file that lists the steps that were reached. A step
is anything that other processes can see: a file opened for writing, renamed or removed, a folder made, a program
started. They are counted from the moment a manifest is put in its place until the driver has looked at the arrays.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

_SEEN = {"os.rename": 1, "os.mkdir": 0, "os.remove": 0, "subprocess.Popen": 1}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_LAST = "/sighting.json"  # what the driver saw of the arrays: the submission is made, and then it waits


class _Steps:
    def __init__(self, kill_at: int, listing: str) -> None:
        self._kill_at = kill_at
        self._listing = os.open(listing, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._count = 0
        self._is_counting = False
        self._is_over = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._is_over:
            return
        what = _what(event, arguments)
        if what is None:
            return
        if self._is_counting:
            self._count += 1
            os.write(self._listing, f"{self._count} {event} {what}\n".encode())
            if self._count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if event == "os.rename" and what.endswith(_LAST):
                self._is_over = True
                os.write(self._listing, b"end\n")
        elif event == "os.rename" and "manifest-" in what:
            self._is_counting = True


def _what(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The file or program that a step is about, None for what is no step."""
    if event == "open":
        path, _, flags = arguments
        return str(path) if isinstance(flags, int) and flags & _WRITING and not str(path).startswith("/dev/") else None
    return str(arguments[_SEEN[event]]) if event in _SEEN else None


def _before(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "os.rename" and os.environ["KILL_BEFORE"] in str(arguments[1]):
        os.kill(os.getpid(), signal.SIGKILL)


if sys.orig_argv[1:4] == ["-m", "arch_search.cli", "run"]:
    if "KILL_AT_STEP" in os.environ:
        sys.addaudithook(_Steps(int(os.environ["KILL_AT_STEP"]), os.environ["STEPS"]))
    if "KILL_BEFORE" in os.environ:
        sys.addaudithook(_before)

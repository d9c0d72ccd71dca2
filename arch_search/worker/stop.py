"""The request to stop: what the signals of Slurm and of a user come to, and how much time they leave."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType

# time for one step and a checkpoint; most sites give 30 s between SIGTERM and SIGKILL
GRACE_S = 20.0
# the rest is for what comes after the child: records, and the order to be started again
WARNED_SHARE = 2 / 3


class StopRequest:
    """True once one of the signals came; the handler does nothing else, so it is safe at any instruction."""

    def __init__(self) -> None:
        self._asked = False
        self._urgent = False

    def __call__(self) -> bool:
        return self._asked

    def listen(self, signals: Sequence[signal.Signals]) -> None:
        for one in signals:
            signal.signal(one, self._ask)

    def grace_s(self, warn_s: float) -> float:
        """Seconds a child gets to save and leave; SIGUSR1 alone came `warn_s` before the time limit."""
        return GRACE_S if self._urgent else WARNED_SHARE * warn_s

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        self._urgent = self._urgent or number != signal.SIGUSR1

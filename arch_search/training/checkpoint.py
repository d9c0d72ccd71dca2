"""Checkpoints: one file of plain tensors and numbers per training phase, replaced as a whole."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from cognition_db.experience.files import write_atomic

# a start saves after this long and then ever more rarely, so that one that is killed early has got somewhere too
FIRST_SAVE_S = 1.0
# until the usual interval is reached, at most this share of the time goes into saving
SAVE_SHARE = 0.05


class Schedule:
    """When the next checkpoint of a start is due: the interval doubles up to `every_s`. Times are seconds."""

    def __init__(self, *, every_s: float, begun: float) -> None:
        self._every_s = every_s
        self._begun = self._saved = begun
        self._interval_s = min(every_s, FIRST_SAVE_S)

    def is_due(self, now: float) -> bool:
        return now - self._saved > self._interval_s

    def note(self, begun: float, now: float) -> None:
        """A checkpoint was written from `begun` to `now`."""
        self._saved = now
        self._interval_s = min(self._every_s, max(now - self._begun, (now - begun) / SAVE_SHARE))


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) durably and in one step."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any] | None:
    """The saved state, or None where there is none or the file is damaged (the training then starts afresh)."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        return None
    return state if isinstance(state, dict) else None

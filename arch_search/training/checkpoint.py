"""Checkpoints: one file of plain tensors and numbers per training phase, replaced as a whole."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from cognition_db.experience.files import write_atomic


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

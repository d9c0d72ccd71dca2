"""Programs are examined in this process here; as in the child, torch.compile is neutral."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import torch


@pytest.fixture(autouse=True)
def _compile_is_neutral(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(model: Any = None, **_: Any) -> Any:
        return model if model is not None else lambda function: function

    monkeypatch.setattr(torch, "compile", compile)

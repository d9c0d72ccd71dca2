"""Blocks by torch's compiler: the real one, with the C++ compiler of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from arch_search.models import compiled
from arch_search.models.compiled import compiled_blocks
from arch_search.models.language_model import LanguageModel
from kernels.dispatch import recorded_choices

B, T, D, VOCAB = 2, 12, 8, 16
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here (apt install g++)")
pytestmark = pytest.mark.xdist_group("compiler")  # one process pays for importing it


_COMPILES = """
import sys
from pathlib import Path
import torch
from torch import nn
from arch_search.models.compiled import compiled_blocks
from arch_search.models.language_model import LanguageModel
from kernels.dispatch import recorded_choices

model = LanguageModel(lambda layer: nn.Linear(8, 8), vocab=16, d_model=8, n_layers=1, feed_forward=0)
inside = compiled_blocks(model, shape=(2, 12), precision=torch.float32, limit_s=200, cache=Path(sys.argv[1]))
with recorded_choices() as choices, inside:
    model(torch.zeros(2, 12, dtype=torch.int64)).sum().backward()
print(*(f"{one.operator}={one.path}" for one in choices))
"""


class _Mixer(nn.Module):
    """Mean of the tokens so far, gated, with dropout and a running statistic."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(D, D)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        mean = x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return self.dropout(torch.sigmoid(self.gate(x)) * mean)


@pytest.fixture
def model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(lambda layer: _Mixer(), vocab=VOCAB, d_model=D, n_layers=1, feed_forward=0)


def _paths(model: LanguageModel, cache: Path, *, limit_s: int = 300, precision: torch.dtype = torch.float32) -> Any:
    """The paths that were remembered, and loss and gradients of a step taken inside."""
    inside = compiled_blocks(model, shape=(B, T), precision=precision, limit_s=limit_s, cache=cache)
    with recorded_choices() as choices, inside:
        step = _step(model)
    return [f"{one.operator}={one.path}" for one in choices if one.operator == "blocks"], step


def _step(model: LanguageModel) -> list[Tensor]:
    torch.manual_seed(1)
    tokens = torch.randint(VOCAB, (B, T + 1))
    loss = model.loss(tokens[:, :-1], tokens[:, 1:], count=torch.tensor(B * T))
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def _objects(cache: Path) -> int:
    return len(list((cache / "inductor").rglob("*.so")))


def _same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.allclose(x, y, rtol=1e-4, atol=1e-6) for x, y in zip(found, expected, strict=True))


@pytest.mark.slow
@needs_compiler
def test_compiled_blocks_compute_the_same_and_leave_model_and_dice_alone(model: LanguageModel, tmp_path: Path) -> None:
    expected = _step(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(2)
    dice = torch.get_rng_state()
    inside = compiled_blocks(model, shape=(B, T), precision=torch.float32, limit_s=300, cache=tmp_path)
    with recorded_choices() as choices, inside:
        assert torch.equal(torch.get_rng_state(), dice)
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        made = _objects(tmp_path)
        assert _same(_step(model), expected)
        model(torch.randint(VOCAB, (B, T + 3)))
        assert _objects(tmp_path) == made > 0, "another shape than that of training is not compiled"
    assert [f"{one.operator}={one.path}" for one in choices] == ["blocks=compiled", "linear_cross_entropy=chunk"]
    assert all("forward" not in vars(block) for block in model.blocks)


def test_more_time_than_the_limit_is_not_taken(model: LanguageModel, tmp_path: Path, monkeypatch: Any) -> None:
    def endless(forward: Callable[..., Any], **_settings: Any) -> Callable[..., Any]:
        while True:
            pass

    expected = _step(model)
    monkeypatch.setattr(compiled, "_compile", endless)
    paths, step = _paths(model, tmp_path, limit_s=1)
    assert paths == ["blocks=eager_timeout"]
    assert _same(step, expected)


def test_without_a_compiler_it_runs_as_it_is_written(tmp_path: Path) -> None:
    # in a process of its own: the compiler remembers which compiler there was
    done = subprocess.run(
        [sys.executable, "-c", _COMPILES, str(tmp_path)],
        env={**os.environ, "CXX": "/no/such/compiler"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "blocks=eager_failed\n", done.stderr[-2000:]
    assert "/no/such/compiler" in done.stderr


def test_a_compiled_block_that_computes_something_else_is_not_used(
    model: LanguageModel, tmp_path: Path, monkeypatch: Any
) -> None:
    def wrong(forward: Callable[[Tensor], Tensor], **_settings: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: forward(x) * 1.001

    expected = _step(model)
    monkeypatch.setattr(compiled, "_compile", wrong)
    paths, step = _paths(model, tmp_path)
    assert paths == ["blocks=eager_differs"]
    assert _same(step, expected)


def test_in_bfloat16_what_is_as_exact_as_the_block_itself_is_used(
    model: LanguageModel, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(compiled, "_compile", lambda forward, **_settings: lambda x: forward(x))
    assert _paths(model, tmp_path, precision=torch.bfloat16)[0] == ["blocks=compiled"]


def test_with_no_time_nothing_is_tried(model: LanguageModel, tmp_path: Path) -> None:
    assert _paths(model, tmp_path, limit_s=0)[0] == []

"""The hash that tells whether a model was changed while it was measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from arch_search.evaluation.measure import state_sha256


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("bf16", torch.ones(2, dtype=torch.bfloat16))
        self.register_buffer("none", torch.empty(0))
        self.register_buffer("spectrum", torch.ones(2, dtype=torch.complex64))


def _named(name: str, change: Callable[[torch.Tensor], object]) -> Callable[[_Model], object]:
    def act(model: _Model) -> None:
        with torch.no_grad():
            change(model.state_dict()[name])

    return act


@pytest.mark.parametrize(
    "change",
    [
        _named("inner.weight", lambda tensor: tensor[0, 0].add_(1e-6)),
        _named("steps", lambda tensor: tensor.add_(1)),
        _named("mask", lambda tensor: tensor.logical_not_()),
        _named("bf16", lambda tensor: tensor.mul_(2)),
        _named("spectrum", lambda tensor: tensor.mul_(1j)),
        lambda model: model.register_buffer("late", torch.ones(1)),
    ],
)
def test_every_change_of_parameters_and_buffers_shows(change: Callable[[_Model], object]) -> None:
    torch.manual_seed(0)
    model = _Model()
    before = state_sha256(model)
    assert state_sha256(model) == before
    change(model)
    assert state_sha256(model) != before


def test_mode_and_gradients_are_no_part_of_it() -> None:
    model = _Model()
    before = state_sha256(model)
    model.eval().inner(torch.ones(1, 3)).sum().backward()
    assert state_sha256(model) == before

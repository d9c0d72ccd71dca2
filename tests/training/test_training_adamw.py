"""The optimiser against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from arch_search.training.adamw import BETAS, EPSILON, AdamW


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3)).double()


def backward(net: nn.Module, step: int) -> None:
    net.zero_grad()
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
    torch.autograd.backward(net(x).square().mean())


def torch_optimiser(net: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    matrices = [parameter for parameter in net.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in net.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=BETAS, eps=EPSILON)


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_ten_steps_equal_those_of_torch(weight_decay: float, is_fused: bool) -> None:
    ours, theirs = network(), network()
    mine = AdamW(ours.parameters(), weight_decay=weight_decay, is_fused=is_fused)
    reference = torch_optimiser(theirs, weight_decay)
    for step in range(10):
        backward(ours, step)
        mine.step(lr=0.01 * (step + 1))
        backward(theirs, step)
        for group in reference.param_groups:
            group["lr"] = 0.01 * (step + 1)
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        # float64: only the order of roundings differs
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("is_fused", [False, True])
def test_a_parameter_without_gradient_is_left_alone(is_fused: bool) -> None:
    net = network()
    before = net[0].weight.detach().clone()
    optimiser = AdamW(net.parameters(), weight_decay=0.1, is_fused=is_fused)
    torch.autograd.backward(net[3](torch.ones(1, 7, dtype=torch.float64)).sum())
    optimiser.step(lr=0.1)
    assert torch.equal(net[0].weight, before)
    assert not torch.equal(net[3].bias, network()[3].bias)


def test_a_frozen_parameter_is_no_part_of_the_state() -> None:
    net = network()
    net[0].weight.requires_grad_(False)
    assert len(AdamW(net.parameters(), weight_decay=0.1).state()["means"]) == 5

"""The reference program: the delta rule of kernels/ under the candidate contract, in our own rendering."""

from __future__ import annotations

import types

import pytest
import torch

from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.proposals import rendering, rungs
from arch_search.proposals.registry import BUILT_IN
from kernels.gated_delta_rule.naive import gated_delta_rule_naive


def _module() -> types.ModuleType:
    module = types.ModuleType("seed")
    exec(compile(SEED_PROGRAM, "seed", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("length", [1, 7, 32, 33, 130])  # below, at and beside the chunk of 32
def test_its_memory_is_the_gated_delta_rule_of_the_kernels(length):
    seed = _module()
    torch.manual_seed(length)
    q, k, v = (torch.randn(2, 3, length, 8, dtype=torch.float64) for _ in range(3))
    k = seed.l2norm(k)
    beta, g = 2 * torch.rand(2, 3, length, 1, dtype=torch.float64), -torch.rand(2, 3, length, 1, dtype=torch.float64)
    ours = seed.gated_delta_rule(q, k, v, beta, g)
    swapped = [one.transpose(1, 2) for one in (q, k, v)]
    flat = [one[..., 0].transpose(1, 2) for one in (beta, g)]
    theirs = gated_delta_rule_naive(*swapped, beta=flat[0], log_g=flat[1], scale=1.0).output
    # float64: the difference is the order of additions
    assert torch.allclose(ours, theirs.transpose(1, 2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("batch, length", [(1, 1), (3, 7), (2, 64), (1, 130)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_maps_any_batch_and_length_and_keeps_the_dtype(batch, length, dtype):
    module = _module().DeltaNet(hidden_size=16, num_heads=2, layer_idx=0).to(dtype)
    x = torch.randn(batch, length, 16, dtype=dtype)
    out = module(x)
    assert out.shape == x.shape
    assert out.dtype == dtype
    assert torch.isfinite(out).all()


def test_every_parameter_gets_a_gradient():
    module = _module().DeltaNet(hidden_size=16, num_heads=2)
    module(torch.randn(2, 40, 16)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_write_strength_and_decay_out_of_range_are_guarded():
    module = _module().DeltaNet(hidden_size=16, num_heads=2)
    q, k, v = (torch.randn(1, 2, 300, 8) for _ in range(3))
    wild = torch.full((1, 2, 300, 1), 50.0)
    assert torch.isfinite(module.read(q, 100 * k, v, wild, wild)).all()


def test_it_is_what_our_own_rendering_gives():
    header = SEED_PROGRAM.split('"""')[1].rstrip("\n").rsplit("\n", 1)[0]
    assert rendering.render(SEED_PROGRAM, header, BUILT_IN) == SEED_PROGRAM


def test_all_hooks_can_be_edited():
    hooks = ("feature_map", "values", "write_strength", "decay", "mix_paths", "output_gate")
    assert rungs.editable_methods(SEED_PROGRAM, BUILT_IN) == hooks

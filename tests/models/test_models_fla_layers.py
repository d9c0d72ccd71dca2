"""The reference and two baselines against the layers of flash-linear-attention, with the same weights.

Needs a GPU and that package. Never run by us on a GPU so far.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from arch_search import domains, models
from arch_search.models.loading import build_mixer, load_mixer_class, mix
from kernels import with_fla

WIDTH, HEADS = 128, 4
BASELINES = Path(models.__file__).parent / "baselines"
SEED_PROGRAM = Path(domains.__file__).parent / "linear_attention" / "seed_program.py"
TOLERANCE = 2e-2  # relative; their kernels multiply in TF32

Weights = dict[str, Tensor]


def of_heads(ours: nn.Module, *, qkv: str, conv: str, norm: str, out: str) -> Weights:
    """What DeltaNet and Gated DeltaNet have in common; theirs project and filter q, k and v one by one."""
    of = ours.state_dict()
    parts = zip("qkv", of[qkv].chunk(3), of[conv].chunk(3), strict=True)
    split = {name: one for x, linear, taps in parts for name, one in ((f"{x}_proj", linear), (f"{x}_conv1d", taps))}
    return {f"{name}.weight": one for name, one in split.items()} | {
        "o_norm.weight": of[norm],
        "o_proj.weight": of[out],
    }


def of_deltanet(ours: nn.Module) -> Weights:
    of = ours.state_dict()
    assert isinstance(ours.norm, nn.RMSNorm)
    ours.norm.eps = (
        1e-5 * WIDTH / HEADS
    )  # theirs read with a factor of d ** -0.5, which the norm takes out but for this
    shared = of_heads(ours, qkv="qkv.weight", conv="short.weight", norm="norm.weight", out="out.weight")
    return shared | {"b_proj.weight": of["p.made.lin1_beta"].mT}


def of_gated_deltanet(ours: nn.Module) -> Weights:
    of = ours.state_dict()
    of["gate_proj.bias"].zero_()  # theirs has none
    names = {"a_proj": "step_proj", "b_proj": "beta_proj", "g_proj": "gate_proj"}
    shared = of_heads(ours, qkv="qkv_proj.weight", conv="conv.weight", norm="o_norm.weight", out="o_proj.weight")
    weights = {f"{theirs}.weight": of[f"{mine}.weight"] for theirs, mine in names.items()}
    return shared | weights | {"A_log": of["log_rate"], "dt_bias": of["step_bias"]}


def of_mamba2(ours: nn.Module) -> Weights:
    of = ours.state_dict()
    of["gate_bias"].zero_()  # theirs has none
    same = {f"{name}.weight": of[f"{name}.weight"] for name in ("in_proj", "norm", "out_proj")}
    return same | {
        "conv1d.weight": of["conv.weight"], "dt_bias": of["step_bias"], "A_log": of["log_rate"], "D": of["skip"],
    }  # fmt: skip


LAYERS: list[tuple[Path, str, str, dict[str, object], Callable[[nn.Module], Weights]]] = [
    (SEED_PROGRAM, "delta_net", "DeltaNet", {}, of_deltanet),
    (
        BASELINES / "gated_deltanet.py", "gated_deltanet", "GatedDeltaNet",
        {"head_dim": WIDTH // HEADS, "expand_v": 1}, of_gated_deltanet,
    ),
    (
        BASELINES / "mamba2.py", "mamba2", "Mamba2",
        {"head_dim": 2 * WIDTH // HEADS, "state_size": WIDTH // HEADS, "use_bias": False, "use_conv_bias": False},
        of_mamba2,
    ),
]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not (torch.cuda.is_available() and with_fla.is_installed()), reason="needs a GPU and fla")
@pytest.mark.parametrize("path, module, layer, settings, weights", LAYERS, ids=[layer for _, _, layer, _, _ in LAYERS])
def test_a_baseline_is_the_layer_of_flash_linear_attention(
    path: Path, module: str, layer: str, settings: dict[str, object], weights: Callable[[nn.Module], Weights]
) -> None:
    torch.manual_seed(0)
    ours = build_mixer(
        load_mixer_class(path, None, default_class="DeltaNet"), d_model=WIDTH, n_heads=HEADS, layer_idx=0
    )
    theirs = getattr(importlib.import_module(f"fla.layers.{module}"), layer)(
        hidden_size=WIDTH, num_heads=HEADS, layer_idx=0, **settings
    )
    theirs.load_state_dict(weights(ours))
    x = torch.randn(2, 150, WIDTH, device="cuda")
    results = []
    for one in (ours.cuda(), theirs.cuda()):
        inputs = x.clone().requires_grad_()
        output = mix(one, inputs)
        (gradient,) = torch.autograd.grad(output.sin().sum(), inputs)
        results.append((output, gradient))
    for found, expected in zip(*results, strict=True):
        assert (found - expected).norm() < TOLERANCE * expected.norm()

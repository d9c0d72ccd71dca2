"""Runs the published-contract program and fla's operators in a process of its own and prints what it saw as JSON."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from arch_search.models.language_model import LanguageModel
from arch_search.models.loading import build_mixer, load_mixer_class, mix
from arch_search.models.stand_in import float64_everywhere, install
from kernels.delta_rule.naive import delta_rule_naive
from kernels.gated_delta_rule.naive import gated_delta_rule_naive
from kernels.gated_linear_attention.naive import gated_linear_attention_naive

PROGRAM = Path(__file__).with_name("published_contract.py")


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).detach().abs().max())


def training_losses(cls: type[torch.nn.Module]) -> list[float]:
    torch.manual_seed(0)
    model = LanguageModel(
        lambda i: build_mixer(cls, d_model=32, n_heads=2, layer_idx=i),
        vocab=16,
        d_model=32,
        n_layers=2,
        feed_forward=32,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    tokens = torch.randint(0, 16, (4, 41))
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def prefix_distance(cls: type[torch.nn.Module]) -> tuple[float, str]:
    with float64_everywhere(), torch.no_grad():
        torch.manual_seed(0)
        mixer = build_mixer(cls, d_model=32, n_heads=2, layer_idx=0)
        x = torch.randn(2, 70, 32)
        whole = mix(mixer, x)
        return max(distance(mix(mixer, x[:, :cut]), whole[:, :cut]) for cut in (1, 33, 64)), str(whole.dtype)


def padded_batch_distance(cls: type[torch.nn.Module]) -> float:
    """A masked batch against each of its sequences alone; the delta loop of the program ignores the bounds."""
    torch.manual_seed(0)
    mixer = build_mixer(cls, d_model=32, n_heads=2, layer_idx=0)
    x, mask = torch.randn(1, 20, 32), torch.ones(1, 20, dtype=torch.long)
    mask[0, :6] = 0
    masked = mixer(x, attention_mask=mask)[0]
    return distance(masked[:, 6:], mix(mixer, x[:, 6:])) + float(masked[:, :6].detach().abs().max())


def operator_distances() -> dict[str, float]:
    ops = importlib.import_module("fla.ops")
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 50, 2, 8, dtype=torch.float64) for _ in range(3))
    k = F.normalize(k, dim=-1)
    beta, g = torch.rand(1, 50, 2, dtype=torch.float64), -torch.rand(1, 50, 2, dtype=torch.float64)
    bounds, cut = torch.tensor([0, 20, 50]), 20
    packed, states = ops.chunk_delta_rule(q, k, v, beta, output_final_state=True, cu_seqlens=bounds)
    alone = [delta_rule_naive(*(x[:, part] for x in (q, k, v, beta))) for part in (slice(cut), slice(cut, None))]
    gated = gated_delta_rule_naive(q, k, v, beta, g).output
    heads = gated_linear_attention_naive(q, k, v, g).output
    return {
        "packed delta rule": distance(packed, torch.cat([part.output for part in alone], dim=1)),
        "packed states": distance(states, torch.cat([part.state for part in alone])),
        "chunk_gated_delta_rule": distance(ops.chunk_gated_delta_rule(q, k, v, g, beta)[0], gated),
        "fused_recurrent_gated_delta_rule": distance(
            ops.fused_recurrent_gated_delta_rule(q, k, v, g, beta=beta)[0], gated
        ),
        "chunk_simple_gla": distance(ops.chunk_simple_gla(q, k, v, g)[0], heads),
        "chunk_gla": distance(ops.chunk_gla(q, k, v, g.unsqueeze(-1).expand_as(k))[0], heads),
    }


def layer_operator_distances() -> dict[str, float]:
    """What layers of fla import beside the delta rules, each against its definition token by token."""
    ops = importlib.import_module("fla.ops")
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 50, 3, 8, dtype=torch.float64) for _ in range(3))
    g, beta = torch.randn(2, 50, 3, dtype=torch.float64), torch.randn(2, 50, 3, dtype=torch.float64)
    a_log, bias = torch.rand(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    decay = -a_log.exp() * F.softplus(g + bias)
    constant = (1 - 2.0 ** (-5.0 - torch.arange(3.0))).log().double().expand(2, 50, 3)
    units = [F.normalize(x, dim=-1) for x in (q, k)]
    in_kernel = ops.chunk_gated_delta_rule(
        *units, v, g, beta, use_gate_in_kernel=True, A_log=a_log, dt_bias=bias, use_beta_sigmoid_in_kernel=True,
        allow_neg_eigval=True, state_v_first=True, output_final_state=True,
    )  # fmt: skip
    gated = gated_delta_rule_naive(*units, v, 2 * beta.sigmoid(), decay)
    zero = torch.zeros_like(g)
    cut, bounds = 20, torch.tensor([0, 20, 50])
    x, f = torch.randn(1, 50, 5, dtype=torch.float64), -torch.rand(1, 50, 5, dtype=torch.float64)
    first = torch.randn(2, 5, dtype=torch.float64)
    packed, last = ops.fused_recurrent_hgrn(x, f, first, True, bounds)
    halves = [
        recurrence(x[:, part], f[:, part], h) for part, h in zip((slice(cut), slice(cut, 50)), first, strict=True)
    ]
    linear = ops.chunk_linear_attn(q[:1], k[:1], v[:1], normalize=False, cu_seqlens=bounds)[0]
    alone = [
        gated_linear_attention_naive(*(y[:1, part] for y in (q, k, v, zero))).output
        for part in (slice(cut), slice(cut, 50))
    ]
    return {
        "gate and beta in the kernel": distance(in_kernel[0], gated.output),
        "state with values first": distance(in_kernel[1].mT, gated.state),
        "chunk_retention": distance(
            ops.chunk_retention(q, k, v)[0], gated_linear_attention_naive(q, k, v, constant).output
        ),
        "chunk_hgrn": distance(ops.chunk_hgrn(x, f)[0], recurrence(x, f, torch.zeros(5))),
        "packed hgrn": distance(packed, torch.cat(halves, dim=1)),
        "states of packed hgrn": distance(last, torch.cat([half[:, -1] for half in halves])),
        "packed linear attention": distance(linear, torch.cat(alone, dim=1)),
    }


def recurrence(x: torch.Tensor, log_g: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    outputs = []
    for t in range(x.shape[1]):
        state = log_g[:, t].exp() * state + x[:, t]
        outputs.append(state)
    return torch.stack(outputs, dim=1)


def module_distances() -> dict[str, float]:
    """Modules of fla against what they are by definition."""
    modules = importlib.import_module("fla.modules")
    torch.manual_seed(2)
    x, z = torch.randn(2, 9, 2, 8), torch.randn(2, 9, 2, 8)
    angles = torch.arange(9)[:, None, None] * 100.0 ** (-torch.arange(4) / 4)
    turned = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    rotary = modules.RotaryEmbedding(dim=8, base=100.0)
    packed = rotary(x[:1], x[:1], cu_seqlens=torch.tensor([0, 4, 9]))[0]
    gated = importlib.import_module("fla.modules.layernorm_gated").RMSNormGated
    shift = importlib.import_module("fla.modules.token_shift").token_shift
    activations = importlib.import_module("fla.modules.activations")
    taylor = importlib.import_module("fla.modules.feature_map").TaylorFeatureMap(8)
    conv = importlib.import_module("fla.modules.convolution")
    weight, flat = torch.randn(16, 4), x.flatten(2)
    steps, cache = [], torch.zeros(2, 16, 4)
    for t in range(9):
        y, cache = conv.causal_conv1d_update(flat[:, t], cache, weight=weight, activation="silu")
        steps.append(y)
    dot = (x * z).sum(-1)
    return {
        "rotary": distance(rotary(x, z)[0], torch.cat([turned.real, turned.imag], dim=-1)),
        "rotary from an offset": distance(rotary(x[:, 4:], z[:, 4:], seqlen_offset=4)[1], rotary(z, z)[1][:, 4:]),
        "packed rotary": distance(packed[:, 4:], rotary(x[:1, 4:], x[:1, 4:])[0]),
        "gate, then norm": distance(gated(8)(x, z), F.rms_norm(x * F.silu(z), (8,), eps=1e-5)),
        "norm, then gate": distance(gated(8, norm_before_gate=True)(x, z), F.rms_norm(x, (8,), eps=1e-5) * F.silu(z)),
        "group norm": distance(
            modules.GroupNorm(2, 16)(flat), F.group_norm(flat.flatten(0, 1), 2, eps=1e-5).view(2, 9, 16)
        ),
        "token shift": distance(shift(flat)[:, 3] + flat[:, 3], flat[:, 2]) + distance(shift(flat)[:, 0], -flat[:, 0]),
        "elu plus one": distance(activations.elu_p1(x), F.elu(x) + 1),
        "taylor map": distance((taylor(x) * taylor(z)).sum(-1), 1 + dot / 8**0.5 + dot.square() / 16),
        "convolution token by token": distance(
            torch.stack(steps, dim=1), conv.causal_conv1d(flat, weight, activation="silu")[0]
        ),
    }


def convolution_distance() -> float:
    """One call against two joined by the cache."""
    conv = importlib.import_module("fla.modules").ShortConvolution(6, 4, bias=True)
    x = torch.randn(2, 9, 6)
    first, cache = conv(x=x[:, :5], output_final_state=True)
    second, last = conv(x=x[:, 5:], cache=cache, output_final_state=True)
    whole, whole_last = conv(x)
    joined = distance(torch.cat([first, second], dim=1), whole)
    return joined if whole_last is None and tuple(last.shape) == (2, 6, 4) else float("inf")


def refusal() -> str:
    q = torch.randn(1, 4, 1, 4)
    try:
        importlib.import_module("fla.ops").fused_recurrent_gla(q, q, q, reverse=True)
    except NotImplementedError as error:
        return str(error)
    return ""


def main() -> None:
    install()
    install()
    cls = load_mixer_class(PROGRAM, "DeltaNet")
    mixer = build_mixer(cls, d_model=32, n_heads=2, layer_idx=0)
    cache = importlib.import_module("fla.models.utils").Cache()
    returned = mixer(torch.randn(2, 37, 32), past_key_values=cache, use_cache=True)
    prefix, dtype = prefix_distance(cls)
    seen = {
        "tuple": [
            list(returned[0].shape),
            returned[1] is None,
            returned[2] is cache,
            len(cache),
            cache.get_seq_length(),
        ],
        "dtype": str(returned[0].dtype),
        "parameter_dtypes": sorted({str(p.dtype) for p in mixer.parameters()}),
        "losses": training_losses(cls),
        "prefix_distance": prefix,
        "prefix_dtype": dtype,
        "padded_batch_distance": padded_batch_distance(cls),
        "operators": operator_distances() | layer_operator_distances(),
        "modules": module_distances(),
        "convolution_distance": convolution_distance(),
        "refusal": refusal(),
        "paths": sum(path.endswith("fla_stand_in") for path in sys.path),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()

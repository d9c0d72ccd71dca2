"""Rows: two filters of the values, the delta rule's output and the identity, mixed by gates and normalised.

And the statistics of these four paths, which the gates of some winners read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.fir_mix.fast import fir_mix, path_statistics
from kernels.fir_mix.inputs import PathStatistics
from kernels.fir_mix.naive import fir_mix_naive, path_statistics_naive
from tests.benchmarks.gpu_rows import Function, Inputs, KernelRow, Variant, Work, compiled

EPS = 1e-5


def four_paths(v: Tensor, delta: Tensor, short: Tensor, long: Tensor) -> list[Tensor]:
    """As the published winners write it."""
    channels_first = v.flatten(2).mT
    filtered = []
    for taps in (short, long):
        padded = F.pad(channels_first, (taps.shape[2] - 1, 0))
        convolved = F.conv1d(padded, taps.flatten(0, 1).unsqueeze(1), groups=padded.shape[1])
        filtered.append(convolved.mT.unflatten(2, v.shape[2:]))
    return [*filtered, delta, v]


def eager(v: Tensor, delta: Tensor, weights: Tensor, short: Tensor, long: Tensor, norm_weight: Tensor) -> Tensor:
    mixed = (torch.stack(four_paths(v, delta, short, long), dim=3) * weights.unsqueeze(-1)).sum(3)
    return F.rms_norm(mixed, (v.shape[3],), norm_weight, EPS)


def eager_statistics(v: Tensor, delta: Tensor, short: Tensor, long: Tensor) -> tuple[Tensor, ...]:
    paths = four_paths(v, delta, short, long)
    pairs = [torch.var_mean(path, dim=-1, correction=0) for path in paths]
    mean_abs = torch.stack([path.abs().mean(-1) for path in paths], -1)
    return torch.stack([mean for _, mean in pairs], -1), torch.stack([var for var, _ in pairs], -1), mean_abs


def on_bank(operator: Callable[..., Tensor]) -> Function:
    def call(v: Tensor, delta: Tensor, weights: Tensor, short: Tensor, long: Tensor, norm_weight: Tensor) -> Tensor:
        return operator(v, [short, long], [delta], weights, norm_weight, eps=EPS)

    return call


def statistics_on_bank(operator: Callable[..., PathStatistics]) -> Function:
    def call(v: Tensor, delta: Tensor, short: Tensor, long: Tensor) -> tuple[Tensor, ...]:
        found = operator(v, [short, long], [delta])
        return found.mean, found.variance, found.mean_abs

    return call


def inputs(device: torch.device, *, shape: tuple[int, int, int, int], taps: tuple[int, int]) -> Inputs:
    drawn = {
        "v": torch.randn(shape, device=device),
        "delta": torch.randn(shape, device=device),
        "weights": torch.randn(*shape[:3], 4, device=device).softmax(-1),
        "norm_weight": torch.ones(shape[3], device=device),
    }
    for name, length in zip(("short", "long"), taps, strict=True):
        drawn[name] = torch.randn(*shape[2:], length, device=device) * length**-0.5
    return {name: x.bfloat16() for name, x in drawn.items()}


def row(*, shape: tuple[int, int, int, int], taps: tuple[int, int]) -> KernelRow:
    B, T, H, V = shape
    one_pass, gates = 2.0 * B * T * H * V, 2.0 * B * T * H * 4
    by_taps = 2.0 * B * T * H * V * sum(taps)
    ratios = {"eager": 10.0, "compile": 3.0, "floor": 1.5}
    return KernelRow(
        name="fir_mix",
        shape=f"B{B} T{T} H{H} D{V}, {taps[0]} and {taps[1]} taps",
        dtype=torch.bfloat16,
        make_inputs=partial(inputs, shape=shape, taps=taps),
        gradients=("v", "delta", "weights", "short", "long", "norm_weight"),
        reference=on_bank(fir_mix_naive),
        variants=(
            Variant(name="ours", make=lambda: on_bank(fir_mix)),
            Variant(name="eager", make=lambda: eager),
            Variant(name="compile", make=compiled(eager)),
        ),
        # forward reads two paths and writes one; backward reads them and a gradient, and writes two
        work={
            "forward": Work(bytes=3 * one_pass + gates, vector_flops=by_taps),
            "both": Work(bytes=8 * one_pass + 3 * gates, vector_flops=3 * by_taps),
        },
        tolerance=2e-2,
        targets={"forward": ratios, "both": ratios},
    )


def statistics_inputs(device: torch.device, *, shape: tuple[int, int, int, int], taps: tuple[int, int]) -> Inputs:
    drawn = inputs(device, shape=shape, taps=taps)
    return {name: drawn[name] for name in ("v", "delta", "short", "long")}


def statistics_row(*, shape: tuple[int, int, int, int], taps: tuple[int, int]) -> KernelRow:
    B, T, H, V = shape
    one_pass, numbers = 2.0 * B * T * H * V, 4.0 * B * T * H * 4 * 3
    by_taps = 2.0 * B * T * H * V * sum(taps)
    return KernelRow(
        name="fir_mix statistics",
        shape=f"B{B} T{T} H{H} D{V}, {taps[0]} and {taps[1]} taps",
        dtype=torch.bfloat16,
        make_inputs=partial(statistics_inputs, shape=shape, taps=taps),
        gradients=("v", "delta", "short", "long"),
        reference=statistics_on_bank(path_statistics_naive),
        variants=(
            Variant(name="ours", make=lambda: statistics_on_bank(path_statistics)),
            Variant(name="eager", make=lambda: eager_statistics),
            Variant(name="compile", make=compiled(eager_statistics)),
        ),
        # forward reads two paths and writes the numbers; backward reads both and writes two gradients
        work={
            "forward": Work(bytes=2 * one_pass + numbers, vector_flops=by_taps),
            "both": Work(bytes=6 * one_pass + 2 * numbers, vector_flops=3 * by_taps),
        },
        tolerance=2e-2,
    )


WINNER = (32, 2048, 8, 32)
ROWS = (
    row(shape=WINNER, taps=(3, 31)),
    row(shape=WINNER, taps=(3, 64)),
    statistics_row(shape=WINNER, taps=(3, 31)),
)

"""Rows: two filters of the values, the delta rule's output and the identity, mixed by gates and normalised."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.fir_mix.fast import fir_mix
from kernels.fir_mix.naive import fir_mix_naive
from tests.benchmarks.gpu_rows import Function, Inputs, KernelRow, Variant, Work, compiled

EPS = 1e-5


def eager(v: Tensor, delta: Tensor, weights: Tensor, short: Tensor, long: Tensor, norm_weight: Tensor) -> Tensor:
    """As the published winners write it."""
    channels_first = v.flatten(2).mT
    paths = [delta, v]
    for taps in (long, short):
        padded = F.pad(channels_first, (taps.shape[2] - 1, 0))
        filtered = F.conv1d(padded, taps.flatten(0, 1).unsqueeze(1), groups=padded.shape[1])
        paths.insert(0, filtered.mT.unflatten(2, v.shape[2:]))
    mixed = (torch.stack(paths, dim=3) * weights.unsqueeze(-1)).sum(3)
    return F.rms_norm(mixed, (v.shape[3],), norm_weight, EPS)


def on_bank(operator: Callable[..., Tensor]) -> Function:
    def call(v: Tensor, delta: Tensor, weights: Tensor, short: Tensor, long: Tensor, norm_weight: Tensor) -> Tensor:
        return operator(v, [short, long], [delta], weights, norm_weight, eps=EPS)

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


ROWS = (row(shape=(32, 2048, 8, 32), taps=(3, 31)), row(shape=(32, 2048, 8, 32), taps=(3, 64)))

"""The bank of filters, the mixture and the norm in one pass over memory, in Triton.

Floor of the forward pass by bytes, for one given path: v and the path read, the output written, P weights per token and
head: 3 + P / V passes over [B, T, H, V]. Floor by arithmetic: 2 L operations per output and filter in float32. On an
H200 (4.3 TB/s, 60 TFLOP/s; computed, not measured) at B32 T2048 H8 V32 in bfloat16: 24.4 us by bytes, and 19 us (3 + 31
taps) to 38 us (3 + 64) by taps. For a gradient through a norm the mixture is written too, one pass more.
Backward: one kernel takes the gradient of the output to that of the mixture, the weights and the given paths, and the
two of `triton_bank` take it on to the values and the filters: 12 passes for one given path and two filters, and the
taps three times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.fir_mix.inputs import check_kernel, check_shapes
from kernels.fir_mix.triton_bank import (
    Tile,
    bank_of,
    correlate,
    filter_gradient,
    grid_of,
    input_gradient,
    load_gates,
    load_rows,
    load_weighted,
    locate,
    sizes_of,
    store_gates,
    store_rows,
)


def fir_mix_triton(
    v: Tensor,
    filters: Sequence[Tensor],
    paths: Sequence[Tensor],
    weights: Tensor,
    norm_weight: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """As `fir_mix_naive`, with sums in float32; raises UnsupportedError where `kernel_refusal` has a line."""
    check_shapes(v, filters, paths, weights=weights, norm_weight=norm_weight)
    check_kernel(v, filters, paths, weights, *(() if norm_weight is None else (norm_weight,)))
    # autograd runs the function with gradients disabled, so it has to be told
    needs_gradient = torch.is_grad_enabled()
    output: Tensor = _FirMix.apply(v, weights, norm_weight, eps, needs_gradient, len(filters), *filters, *paths)
    return output


@triton.jit
def _mix_kernel(
    v, bank, paths, weights, norm_weight, out, mixed, T, eps,
    H: tl.constexpr, TAPS: tl.constexpr, NORM: tl.constexpr, SAVE: tl.constexpr,
    V: tl.constexpr, C: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    F: tl.constexpr = len(TAPS)
    P: tl.constexpr = F + len(paths) + 1
    head, start, place = locate(T, H, 4 * R)
    columns = tl.arange(0, C)
    tile = Tile(-start, T - start, columns, columns < V, place * V, H * V, place * P, H * P)
    at = 4 * tl.arange(0, R)
    taps = bank + head * V
    zero = tl.zeros([R, C], tl.float32)
    sums = (zero, zero, zero, zero)
    for f in tl.static_range(F):
        ys = correlate(v, weights, taps, H * V, at - (TAPS[f] - 1), tile, TAPS[f], False)
        sums = (
            sums[0] + load_gates(weights + f, at, tile) * ys[0],
            sums[1] + load_gates(weights + f, at + 1, tile) * ys[1],
            sums[2] + load_gates(weights + f, at + 2, tile) * ys[2],
            sums[3] + load_gates(weights + f, at + 3, tile) * ys[3],
        )
        taps += TAPS[f] * H * V
    for k in tl.static_range(4):
        m = sums[k] + load_weighted(v, weights + P - 1, at + k, tile, True)
        for g in tl.static_range(len(paths)):
            m += load_weighted(paths[g], weights + F + g, at + k, tile, True)
        if SAVE:
            store_rows(mixed, m, at + k, tile)
        if NORM:
            m *= tl.rsqrt(tl.sum(m * m, 1) / V + eps)[:, None]
            m *= tl.load(norm_weight + columns, mask=columns < V, other=0.0).to(tl.float32)[None, :]
        store_rows(out, m, at + k, tile)


class _Mixture(NamedTuple):
    """What the gradient of a tile of the mixture needs, beside the filters."""

    v: Any
    paths: Any
    weights: Any
    norm_weight: Any
    mixed: Any
    grad: Any
    grad_mixed: Any
    grad_paths: Any
    grad_weights: Any


@triton.jit
def _mixture_gradient(x, at, tile, eps, F: tl.constexpr, NORM: tl.constexpr, V: tl.constexpr):
    """Gradient of the mixture at rows `at`, and their part in that of norm_weight; stores the parts of the given paths.

    With m the mixture, s = 1 / sqrt(mean(m^2) + eps) and g the gradient of m s: s g - s^3 m mean(m g).
    """
    P: tl.constexpr = F + len(x.paths) + 1
    g = load_rows(x.grad, at, tile)
    share = tl.zeros([g.shape[1]], tl.float32)
    if NORM:
        m = load_rows(x.mixed, at, tile)
        scale = tl.rsqrt(tl.sum(m * m, 1) / V + eps)[:, None]
        share = tl.sum(g * m * scale, 0)
        g *= tl.load(x.norm_weight + tile.columns, mask=tile.live, other=0.0).to(tl.float32)[None, :]
        g = scale * g - scale * scale * scale * m * (tl.sum(m * g, 1) / V)[:, None]
        store_rows(x.grad_mixed, g, at, tile)
    store_gates(x.grad_weights + P - 1, tl.sum(g * load_rows(x.v, at, tile), 1), at, tile)
    for i in tl.static_range(len(x.paths)):
        store_gates(x.grad_weights + F + i, tl.sum(g * load_rows(x.paths[i], at, tile), 1), at, tile)
        store_rows(x.grad_paths[i], load_gates(x.weights + F + i, at, tile) * g, at, tile)
    return g, share


@triton.jit
def _mix_gradient_kernel(
    v, bank, paths, weights, norm_weight, mixed, grad, grad_mixed, grad_paths, grad_weights, grad_norm, T, eps,
    H: tl.constexpr, TAPS: tl.constexpr, NORM: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    F: tl.constexpr = len(TAPS)
    P: tl.constexpr = F + len(paths) + 1
    head, start, place = locate(T, H, 4 * R)
    columns = tl.arange(0, C)
    tile = Tile(-start, T - start, columns, columns < V, place * V, H * V, place * P, H * P)
    at = 4 * tl.arange(0, R)
    x = _Mixture(v, paths, weights, norm_weight, mixed, grad, grad_mixed, grad_paths, grad_weights)
    g0, share0 = _mixture_gradient(x, at, tile, eps, F, NORM, V)
    g1, share1 = _mixture_gradient(x, at + 1, tile, eps, F, NORM, V)
    g2, share2 = _mixture_gradient(x, at + 2, tile, eps, F, NORM, V)
    g3, share3 = _mixture_gradient(x, at + 3, tile, eps, F, NORM, V)
    if NORM:
        share = share0 + share1 + share2 + share3
        tl.store(grad_norm + tl.program_id(0).to(tl.int64) * V + columns, share, mask=columns < V)
    taps = bank + head * V
    for f in tl.static_range(F):
        ys = correlate(v, weights, taps, H * V, at - (TAPS[f] - 1), tile, TAPS[f], False)
        store_gates(grad_weights + f, tl.sum(g0 * ys[0], 1), at, tile)
        store_gates(grad_weights + f, tl.sum(g1 * ys[1], 1), at + 1, tile)
        store_gates(grad_weights + f, tl.sum(g2 * ys[2], 1), at + 2, tile)
        store_gates(grad_weights + f, tl.sum(g3 * ys[3], 1), at + 3, tile)
        taps += TAPS[f] * H * V


class _FirMix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        v: Tensor,
        weights: Tensor,
        norm_weight: Tensor | None,
        eps: float,
        needs_gradient: bool,
        count: int,
        *filters_and_paths: Tensor,
    ) -> Tensor:
        v, weights = v.contiguous(), weights.contiguous()
        filters, paths = filters_and_paths[:count], tuple(path.contiguous() for path in filters_and_paths[count:])
        norm = None if norm_weight is None else norm_weight.contiguous()
        bank, out = bank_of(filters), torch.empty_like(v)
        save = norm is not None and needs_gradient and any(ctx.needs_input_grad)
        mixed = torch.empty_like(v) if save else None
        with torch.cuda.device_of(v):
            _mix_kernel[grid_of(v)](
                v, bank, paths, weights, v if norm is None else norm, out, out if mixed is None else mixed,
                v.shape[1], eps, NORM=norm is not None, SAVE=save, **sizes_of(v, filters),
            )  # fmt: skip
        ctx.eps, ctx.count = eps, count
        ctx.save_for_backward(v, weights, norm, mixed, bank, *filters, *paths)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        v, weights, norm, mixed, bank, *rest = ctx.saved_tensors
        filters, paths = rest[: ctx.count], tuple(rest[ctx.count :])
        grad = grad.contiguous()
        grad_mixed = grad if norm is None else torch.empty_like(v)
        grad_paths = tuple(torch.empty_like(path) for path in paths)
        grad_weights = torch.empty_like(weights)
        grid = grid_of(v)
        norm_sums = None if norm is None else v.new_empty(grid[0], v.shape[3], dtype=torch.float32)
        with torch.cuda.device_of(v):
            _mix_gradient_kernel[grid](
                v, bank, paths, weights, v if norm is None else norm, v if mixed is None else mixed, grad, grad_mixed,
                grad_paths, grad_weights, v if norm_sums is None else norm_sums, v.shape[1], ctx.eps,
                NORM=norm is not None, **sizes_of(v, filters),
            )  # fmt: skip
        needs_v, *_ = ctx.needs_input_grad
        needs_filters = ctx.needs_input_grad[6 : 6 + ctx.count]
        grad_v = input_gradient(grad_mixed, weights, bank, filters, v) if needs_v else None
        grad_filters = [
            filter_gradient(grad_mixed, weights, v, number, taps) if needed else None
            for number, (taps, needed) in enumerate(zip(filters, needs_filters, strict=True))
        ]
        grad_norm = None if norm is None or norm_sums is None else norm_sums.sum(0).to(norm.dtype)
        return grad_v, grad_weights, grad_norm, None, None, None, *grad_filters, *grad_paths

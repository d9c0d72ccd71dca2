"""Statistics of all paths in one pass over memory, the filtered ones never written, in Triton.

Gates that read them need them before the paths can be mixed, so two passes over the values and the given paths are the
least. Floor: v and the given paths read, three numbers per token, head and path written.
Backward: the paths are filtered again and the gradient of each is written, F + 1 passes for F filters, since it differs
from path to path; the kernels of `triton_bank` take it on to the values and the filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.fir_mix.inputs import PathStatistics, check_kernel, check_shapes
from kernels.fir_mix.triton_bank import (
    Tile,
    bank_of,
    correlate,
    filter_gradient,
    grid_of,
    input_gradient,
    load_gates,
    load_rows,
    locate,
    sizes_of,
    store_gates,
    store_rows,
)


def path_statistics_triton(v: Tensor, filters: Sequence[Tensor], paths: Sequence[Tensor]) -> PathStatistics:
    """As `path_statistics_naive`, in float32; raises UnsupportedError where `kernel_refusal` has a line."""
    check_shapes(v, filters, paths)
    check_kernel(v, filters, paths)
    mean, variance, mean_abs = _PathStatistics.apply(v, len(filters), *filters, *paths)
    return PathStatistics(mean=mean, variance=variance, mean_abs=mean_abs)


class _Numbers(NamedTuple):
    """The statistics [B, T, H, P], or their gradients."""

    mean: Any
    variance: Any
    mean_abs: Any


@triton.jit
def _store_statistics(path, number: tl.constexpr, out, at, tile, V: tl.constexpr):
    mean = tl.sum(path, 1) / V
    deviation = tl.where(tile.live[None, :], path - mean[:, None], 0.0)
    store_gates(out.mean + number, mean, at, tile)
    store_gates(out.variance + number, tl.sum(deviation * deviation, 1) / V, at, tile)
    store_gates(out.mean_abs + number, tl.sum(tl.abs(path), 1) / V, at, tile)


@triton.jit
def _store_gradient(path, number: tl.constexpr, grad, out, at, tile, V: tl.constexpr):
    deviation = path - (tl.sum(path, 1) / V)[:, None]
    sign = tl.where(path > 0, 1.0, tl.where(path < 0, -1.0, 0.0))
    g = load_gates(grad.mean + number, at, tile) + load_gates(grad.mean_abs + number, at, tile) * sign
    g += 2 * load_gates(grad.variance + number, at, tile) * deviation
    store_rows(out, g / V, at, tile)


@triton.jit
def _statistics_kernel(
    v, bank, paths, mean, variance, mean_abs, T,
    H: tl.constexpr, TAPS: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    F: tl.constexpr = len(TAPS)
    P: tl.constexpr = F + len(paths) + 1
    head, start, place = locate(T, H, 4 * R)
    columns = tl.arange(0, C)
    tile = Tile(-start, T - start, columns, columns < V, place * V, H * V, place * P, H * P)
    at = 4 * tl.arange(0, R)
    out = _Numbers(mean, variance, mean_abs)
    taps = bank + head * V
    for f in tl.static_range(F):
        ys = correlate(v, v, taps, H * V, at - (TAPS[f] - 1), tile, TAPS[f], False)
        for k in tl.static_range(4):
            _store_statistics(ys[k], f, out, at + k, tile, V)
        taps += TAPS[f] * H * V
    for k in tl.static_range(4):
        for i in tl.static_range(len(paths)):
            _store_statistics(load_rows(paths[i], at + k, tile), F + i, out, at + k, tile, V)
        _store_statistics(load_rows(v, at + k, tile), P - 1, out, at + k, tile, V)


@triton.jit
def _statistics_gradient_kernel(
    v, bank, paths, mean, variance, mean_abs, grad_own, grad_paths, path_stride, T,
    H: tl.constexpr, TAPS: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Gradients of the filtered paths and then the identity into grad_own [F + 1, B, T, H, V]."""
    F: tl.constexpr = len(TAPS)
    P: tl.constexpr = F + len(paths) + 1
    head, start, place = locate(T, H, 4 * R)
    columns = tl.arange(0, C)
    tile = Tile(-start, T - start, columns, columns < V, place * V, H * V, place * P, H * P)
    at = 4 * tl.arange(0, R)
    grad = _Numbers(mean, variance, mean_abs)
    taps = bank + head * V
    for f in tl.static_range(F):
        ys = correlate(v, v, taps, H * V, at - (TAPS[f] - 1), tile, TAPS[f], False)
        for k in tl.static_range(4):
            _store_gradient(ys[k], f, grad, grad_own, at + k, tile, V)
        taps += TAPS[f] * H * V
        grad_own += path_stride
    for k in tl.static_range(4):
        for i in tl.static_range(len(paths)):
            _store_gradient(load_rows(paths[i], at + k, tile), F + i, grad, grad_paths[i], at + k, tile, V)
        _store_gradient(load_rows(v, at + k, tile), P - 1, grad, grad_own, at + k, tile, V)


class _PathStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, count: int, *filters_and_paths: Tensor) -> tuple[Tensor, ...]:
        v = v.contiguous()
        filters, paths = filters_and_paths[:count], tuple(path.contiguous() for path in filters_and_paths[count:])
        bank = bank_of(filters)
        out = v.new_empty(3, *v.shape[:3], len(filters_and_paths) + 1, dtype=torch.float32).unbind()
        with torch.cuda.device_of(v):
            _statistics_kernel[grid_of(v)](v, bank, paths, *out, v.shape[1], **sizes_of(v, filters))
        ctx.count = count
        ctx.save_for_backward(v, bank, *filters, *paths)
        return tuple(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        v, bank, *rest = ctx.saved_tensors
        filters, paths = rest[: ctx.count], tuple(rest[ctx.count :])
        grad_own = v.new_empty(len(filters) + 1, *v.shape)
        grad_paths = tuple(torch.empty_like(path) for path in paths)
        numbers = [grad.contiguous() for grad in grads]
        with torch.cuda.device_of(v):
            _statistics_gradient_kernel[grid_of(v)](
                v, bank, paths, *numbers, grad_own, grad_paths, v.numel(), v.shape[1], **sizes_of(v, filters)
            )
        grad_v = input_gradient(grad_own, None, bank, filters, v) if ctx.needs_input_grad[0] else None
        grad_filters = [
            filter_gradient(grad_own, None, v, number, taps) if needed else None
            for number, (taps, needed) in enumerate(zip(filters, ctx.needs_input_grad[2:], strict=False))
        ]
        return grad_v, None, *grad_filters, *grad_paths

"""Codes of matrix products, convolutions and triangular solves: the latest factor in place of the sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arch_search.admission.certificate.shadow import CONSTANT, Shadow

_BLOCK = 1 << 22  # codes held at once


def product_codes(left: Tensor, right: Tensor, none_left: Tensor, none_right: Tensor) -> Tensor:
    """Codes of out[i, j] = sum_k left[i, k] right[k, j], over the k where neither factor is known to be zero.

    Args:
        left, right: codes int16 [2, *, M, K] and [2, *, K, N] with the same batch dimensions.
        none_left, none_right: bool [*, M, K] and [*, K, N].

    Returns:
        int16 [2, *, M, N]; CONSTANT (and zero) where no k is left.
    """
    N, M = right.shape[-1], left.shape[-2]
    if left.shape[-1] == 0:
        return torch.zeros((*left.shape[:-1], N), dtype=torch.int16)
    if not bool(none_left.any()) and not bool(none_right.any()):
        return torch.maximum(left.amax(dim=-1, keepdim=True), right.amax(dim=-2, keepdim=True))
    if _is_uniform(right, -1) and _is_uniform(none_right, -1):
        thin = _dense(left, right[..., :1], none_left, none_right[..., :1])
        return thin.expand(*thin.shape[:-1], N)
    if _is_uniform(left, -2) and _is_uniform(none_left, -2):
        thin = _dense(left[..., :1, :], right, none_left[..., :1, :], none_right)
        return thin.expand(*thin.shape[:-2], M, N)
    return _dense(left, right, none_left, none_right)


def _is_uniform(tensor: Tensor, dim: int) -> bool:
    return tensor.shape[dim] > 1 and bool((tensor == tensor.narrow(dim, 0, 1)).all())


def _dense(left: Tensor, right: Tensor, none_left: Tensor, none_right: Tensor) -> Tensor:
    *batch, M, _ = none_left.shape
    N = none_right.shape[-1]
    out = torch.zeros((2, *batch, M, N), dtype=torch.int16)
    cost = max(1, 2 * none_left.numel() // max(1, M) * N)
    step = max(1, _BLOCK // cost)
    for start in range(0, M, step):
        rows = slice(start, start + step)
        skipped = none_left[..., rows, :, None] | none_right[..., None, :, :]
        joined = torch.maximum(left[..., rows, :, None], right[..., None, :, :])
        out[..., rows, :] = joined.masked_fill(skipped, CONSTANT).amax(dim=-2)
    return out


def solve_codes(a: Tensor, b: Tensor, none_a: Tensor, none_b: Tensor, *, upper: bool, unit: bool) -> Tensor:
    """Codes of X in A X = B for a triangular A [2, *, N, N] and B [2, *, N, K], by substitution."""
    N = a.shape[-1]
    x, none_x = torch.zeros_like(b), torch.zeros_like(none_b)
    order = range(N - 1, -1, -1) if upper else range(N)
    for i in order:
        solved = slice(i + 1, N) if upper else slice(0, i)
        skipped = none_a[..., i, solved, None] | none_x[..., solved, :]
        joined = torch.maximum(a[..., i, solved, None], x[..., solved, :]).masked_fill(skipped, CONSTANT)
        earlier = joined.amax(dim=-2) if joined.shape[-2] else torch.zeros_like(b[..., i, :])
        row = torch.maximum(b[..., i, :], earlier)
        none_x[..., i, :] = none_b[..., i, :] & skipped.all(dim=-2)
        if not unit:
            row = torch.maximum(row, a[..., i, i, None])
        x[..., i, :] = row.masked_fill(none_x[..., i, :], CONSTANT)
    return x


def convolution_codes(shadow: Shadow, given: dict[str, Any]) -> Tensor | None:
    """Codes of a one-dimensional convolution: of each output, the inputs under taps not known to be zero.

    None where there is no rule (more dimensions, transposed): whatever calls this then joins everything.
    """
    x, weight, bias = given["input"], given["weight"], given["bias"]
    if x.dim() != 3 or given["transposed"]:
        return None
    (stride,), (padding,), (dilation,), groups = (
        *(given[name] for name in ("stride", "padding", "dilation")),
        given["groups"],
    )
    codes, of_weight, none = shadow.read(x), shadow.read(weight), shadow.zeros(weight)
    out_channels, per_group, K = weight.shape
    padded = torch.nn.functional.pad(codes, (padding, padding))
    span = (K - 1) * dilation + 1
    windows = padded.unfold(-1, span, stride)[..., ::dilation]  # [2, B, C, T_out, K]
    windows = windows.reshape(*windows.shape[:2], groups, 1, per_group, *windows.shape[3:])  # [2, B, G, 1, c, T_out, K]
    none = none.reshape(1, groups, out_channels // groups, per_group, 1, K)
    found = None
    for k in range(K):
        tap = windows[..., k].masked_fill(none[..., k], CONSTANT).amax(dim=4)  # [2, B, G, o, T_out]
        found = tap if found is None else torch.maximum(found, tap)
    assert found is not None
    out = found.flatten(2, 3)
    out = torch.maximum(out, of_weight.flatten(2).amax(dim=2)[:, None, :, None])
    return out if bias is None else torch.maximum(out, shadow.read(bias)[:, None, :, None])

"""What a bank of filters and its mixture take: shapes for every version, limits of the Triton kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.dispatch import UnsupportedError

MAX_TAPS = 128
MAX_WIDTH = 128
_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStatistics:
    """Over the V channels of every path, each [B, T, H, P] in the state's dtype.

    Standard deviation and norm follow from them, sqrt(variance) and sqrt(V (variance + mean^2)); how to treat the root
    at 0, where it has no gradient, is the caller's choice.
    """

    mean: Tensor
    variance: Tensor  # divided by V, not V - 1
    mean_abs: Tensor


def check_shapes(
    v: Tensor,
    filters: Sequence[Tensor],
    paths: Sequence[Tensor],
    *,
    weights: Tensor | None = None,
    norm_weight: Tensor | None = None,
) -> None:
    """Raises ValueError for shapes that do not belong together; the kernels would read beyond the tensors."""
    if v.ndim != 4 or v.numel() == 0:
        raise ValueError(f"fir_mix: v has shape {list(v.shape)}, expected [B, T, H, V], each 1 or more")
    for number, taps in enumerate(filters):
        if taps.ndim != 3 or taps.shape[:2] != v.shape[2:] or taps.shape[2] == 0:
            wanted = f"[{v.shape[2]}, {v.shape[3]}, taps >= 1]"
            raise ValueError(f"fir_mix: filter {number} has shape {list(taps.shape)}, expected {wanted}")
    for number, path in enumerate(paths):
        if path.shape != v.shape:
            raise ValueError(f"fir_mix: path {number} has shape {list(path.shape)}, v has {list(v.shape)}")
    count = len(filters) + len(paths) + 1
    if weights is not None and weights.shape != (*v.shape[:3], count):
        wanted = f"{[*v.shape[:3], count]}: {len(filters)} filters, {len(paths)} paths, identity"
        raise ValueError(f"fir_mix: weights have shape {list(weights.shape)}, expected {wanted}")
    if norm_weight is not None and norm_weight.shape != v.shape[3:]:
        raise ValueError(f"fir_mix: norm_weight has shape {list(norm_weight.shape)}, expected [{v.shape[3]}]")


def kernel_refusal(v: Tensor, filters: Sequence[Tensor], paths: Sequence[Tensor], *others: Tensor) -> str:
    """Why the Triton kernels do not take these inputs, in one line; empty where they do. Devices are not looked at."""
    for x in (v, *filters, *paths, *others):
        if x.dtype not in _DTYPES:
            return f"dtype {_name(x.dtype)}, the Triton kernel supports float32 and bfloat16"
    longest = max((taps.shape[2] for taps in filters), default=1)
    if longest > MAX_TAPS:
        return f"{longest} taps, the Triton kernel supports 1 to {MAX_TAPS}"
    if v.shape[3] > MAX_WIDTH:
        return f"head width {v.shape[3]}, the Triton kernel supports 1 to {MAX_WIDTH}"
    if not filters:
        return "no filters, the Triton kernel supports 1 or more"
    return ""


def check_kernel(v: Tensor, filters: Sequence[Tensor], paths: Sequence[Tensor], *others: Tensor) -> None:
    """Raises UnsupportedError with the line of `kernel_refusal`."""
    if refusal := kernel_refusal(v, filters, paths, *others):
        raise UnsupportedError(f"fir_mix: {refusal}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

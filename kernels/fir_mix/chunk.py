"""The bank of filters in plain torch: one depthwise convolution per filter, no loop over time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.common import state_dtype
from kernels.fir_mix.inputs import PathStatistics, check_shapes


def fir_mix_chunk(
    v: Tensor,
    filters: Sequence[Tensor],
    paths: Sequence[Tensor],
    weights: Tensor,
    norm_weight: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """As `fir_mix_naive`."""
    check_shapes(v, filters, paths, weights=weights, norm_weight=norm_weight)
    every = _every_path(v, filters, paths)
    first, *rest = zip(every, weights.to(every[0].dtype).unsqueeze(-1).unbind(3), strict=True)
    mixed = first[0] * first[1]
    for path, gate in rest:
        mixed = torch.addcmul(mixed, path, gate)
    if norm_weight is not None:
        mixed = F.rms_norm(mixed, (v.shape[3],), norm_weight.to(mixed.dtype), eps)
    return mixed.to(v.dtype)


def path_statistics_chunk(v: Tensor, filters: Sequence[Tensor], paths: Sequence[Tensor]) -> PathStatistics:
    """As `path_statistics_naive`."""
    check_shapes(v, filters, paths)
    every = _every_path(v, filters, paths)
    variances, means = zip(*(torch.var_mean(path, dim=-1, correction=0) for path in every), strict=True)
    return PathStatistics(
        mean=torch.stack(means, dim=-1),
        variance=torch.stack(variances, dim=-1),
        mean_abs=torch.stack([path.abs().mean(-1) for path in every], dim=-1),
    )


def _every_path(v: Tensor, filters: Sequence[Tensor], paths: Sequence[Tensor]) -> list[Tensor]:
    """P tensors [B, T, H, V] in the state's dtype."""
    dtype = state_dtype(v)
    values = v.to(dtype)
    # autocast would narrow the sums of the convolution
    with torch.autocast(v.device.type, enabled=False):
        filtered = [_filtered(values, taps.to(dtype)) for taps in filters]
    return [*filtered, *(path.to(dtype) for path in paths), values]


def _filtered(values: Tensor, taps: Tensor) -> Tensor:
    channels_first = F.pad(values.flatten(2).mT, (taps.shape[2] - 1, 0))
    filtered = F.conv1d(channels_first, taps.flatten(0, 1).unsqueeze(1), groups=channels_first.shape[1])
    return filtered.mT.reshape(values.shape)

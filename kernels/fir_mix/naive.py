"""A bank of causal filters beside given paths, mixed by weights: token by token.

B batch, T tokens, H heads, V width of a head, L taps, P paths: the filters, then the given ones, then v itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.common import state_dtype
from kernels.fir_mix.inputs import PathStatistics


def fir_mix_naive(
    v: Tensor,
    filters: Sequence[Tensor],
    paths: Sequence[Tensor],
    weights: Tensor,
    norm_weight: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Mixes filtered values, given paths and the values themselves; the definition for every fast version.

    z^f_t = sum_{l=0}^{L_f-1} filter^f_l v_{t-L_f+1+l} per head and channel,   m_t = sum_p w_tp z^p_t
    o_t = m_t, or norm_weight m_t / sqrt(mean_V(m_t^2) + eps) where norm_weight is given

    Args:
        v: values [B, T, H, V], zero before the first token.
        filters: one [H, V, L] per filter, each of its own length; the last tap meets the present token.
        paths: further paths [B, T, H, V], for example the output of the delta rule.
        weights: [B, T, H, P], any numbers: a softmax, independent gates, with an output gate multiplied in.
        norm_weight: [V], shared by the heads.

    Returns:
        Output [B, T, H, V] in the dtype of v; sums are kept in the state's dtype.

    Source: the winners of ASI-Arch, arXiv 2507.18074: depthwise filters on the values beside the delta rule and the
    identity, gated per token and head, then RMSNorm (arXiv 1910.07467, equation 4).
    """
    dtype = state_dtype(v)
    mixed = torch.einsum("bthpv,bthp->bthv", _every_path(v, filters, paths), weights.to(dtype))
    if norm_weight is not None:
        mixed = mixed * (mixed.square().mean(-1, keepdim=True) + eps).rsqrt() * norm_weight.to(dtype)
    return mixed.to(v.dtype)


def path_statistics_naive(v: Tensor, filters: Sequence[Tensor], paths: Sequence[Tensor]) -> PathStatistics:
    """Statistics of all P paths of `fir_mix_naive`, which the gates of some winners read to weigh the paths."""
    every = _every_path(v, filters, paths)
    return PathStatistics(mean=every.mean(-1), variance=every.var(-1, correction=0), mean_abs=every.abs().mean(-1))


def _every_path(v: Tensor, filters: Sequence[Tensor], paths: Sequence[Tensor]) -> Tensor:
    """[B, T, H, P, V] in the state's dtype."""
    values = v.to(state_dtype(v))
    filtered = [_filtered(values, taps.to(values.dtype)) for taps in filters]
    return torch.stack([*filtered, *(path.to(values.dtype) for path in paths), values], dim=3)


def _filtered(values: Tensor, taps: Tensor) -> Tensor:
    length = taps.shape[2]
    padded = torch.cat([values.new_zeros(values.shape[0], length - 1, *values.shape[2:]), values], dim=1)
    outputs = [torch.einsum("blhv,hvl->bhv", padded[:, t : t + length], taps) for t in range(values.shape[1])]
    return torch.stack(outputs, dim=1)

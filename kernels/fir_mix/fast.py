"""The bank of filters and its mixture on the fastest path that takes the input."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kernels.dispatch import is_fast, triton_refusal
from kernels.fir_mix.chunk import fir_mix_chunk, path_statistics_chunk
from kernels.fir_mix.inputs import PathStatistics, kernel_refusal


def fir_mix(
    v: Tensor,
    filters: Sequence[Tensor],
    paths: Sequence[Tensor],
    weights: Tensor,
    norm_weight: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """As `fir_mix_naive`: by the Triton kernel on a GPU where it takes the input, else by `fir_mix_chunk`."""
    norm = () if norm_weight is None else (norm_weight,)
    if _is_fast(v, filters, paths, weights, *norm):
        from kernels.fir_mix.triton import fir_mix_triton

        return fir_mix_triton(v, filters, paths, weights, norm_weight, eps=eps)
    return fir_mix_chunk(v, filters, paths, weights, norm_weight, eps=eps)


def path_statistics(v: Tensor, filters: Sequence[Tensor], paths: Sequence[Tensor]) -> PathStatistics:
    """As `path_statistics_naive`, on the same terms as `fir_mix`."""
    if _is_fast(v, filters, paths):
        from kernels.fir_mix.triton_statistics import path_statistics_triton

        return path_statistics_triton(v, filters, paths)
    return path_statistics_chunk(v, filters, paths)


def _is_fast(v: Tensor, filters: Sequence[Tensor], paths: Sequence[Tensor], *others: Tensor) -> bool:
    refusal = triton_refusal(v, *filters, *paths, *others) or kernel_refusal(v, filters, paths, *others)
    return is_fast("fir_mix", fast="triton", plain="chunk", refusal=refusal, like=v)

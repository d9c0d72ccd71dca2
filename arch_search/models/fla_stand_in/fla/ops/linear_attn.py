"""Linear attention under fla's names."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fla.ops.segments import run
from kernels.linear_attention.chunk import linear_attention_chunk_with_state


def chunk_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    normalize: bool = True,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """q, k [B, T, H, K], v [B, T, H, V]; `normalize` divides by the scaled query times the sum of keys so far."""
    output, state = run(
        linear_attention_chunk_with_state,
        {"q": q, "k": k, "v": v},
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=None,
        unused=kwargs,
    )
    if normalize:
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        output = output / ((q * factor * k.cumsum(1)).sum(-1, keepdim=True) + 1e-10)
    return output, state


def fused_recurrent_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    normalize: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_linear_attn`, not normalised unless asked for."""
    return chunk_linear_attn(q, k, v, scale, initial_state, output_final_state, normalize, **kwargs)


fused_chunk_linear_attn = chunk_linear_attn

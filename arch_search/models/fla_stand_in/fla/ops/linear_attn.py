"""Linear attention under fla's names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fla.ops.segments import run, segments
from kernels.linear_attention.chunk import linear_attention_chunk_with_state


def chunk_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    normalize: bool = True,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """q, k [B, T, H, K], v [B, T, H, V]; `normalize` divides by the scaled query times the sum of keys so far."""
    output, state = run(
        linear_attention_chunk_with_state,
        {"q": q, "k": k, "v": v},
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
        unused=kwargs,
    )
    if normalize:
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        keys = torch.cat(
            [part.cumsum(1) for part, _ in segments(k, None, cu_seqlens)], dim=0 if cu_seqlens is None else 1
        )
        output = output / ((q * factor * keys).sum(-1, keepdim=True) + 1e-10)
    return output, state


def fused_recurrent_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    normalize: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_linear_attn`, not normalised unless asked for."""
    return chunk_linear_attn(q, k, v, scale, initial_state, output_final_state, normalize, cu_seqlens, **kwargs)


fused_chunk_linear_attn = chunk_linear_attn

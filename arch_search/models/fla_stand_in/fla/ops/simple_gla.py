"""Gated linear attention with a decay per head, under fla's names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fla.ops.segments import run
from kernels.gated_linear_attention.chunk import gated_linear_attention_chunk_with_state


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """q, k [B, T, H, K], v [B, T, H, V]; log decay: g [B, T, H] plus the constant g_gamma [H], 0 where None."""
    decay = torch.zeros_like(q[..., 0]) if g is None else g
    decay = decay if g_gamma is None else decay + g_gamma
    return run(
        gated_linear_attention_chunk_with_state,
        {"q": q, "k": k, "v": v, "log_g": decay},
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
        unused=kwargs,
    )


fused_chunk_simple_gla = chunk_simple_gla
fused_recurrent_simple_gla = chunk_simple_gla

"""Gated linear attention with a decay per key channel, under fla's names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fla.ops.segments import run
from kernels.gated_linear_attention.chunk import gated_linear_attention_chunk_with_state


def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """q, k and log decay g [B, T, H, K], v [B, T, H, V]."""
    return run(
        gated_linear_attention_chunk_with_state,
        {"q": q, "k": k, "v": v, "log_g": g},
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
        unused=kwargs,
    )


def fused_recurrent_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_gla`; no decay where gk is None."""
    decay = torch.zeros_like(k) if gk is None else gk
    return chunk_gla(
        q, k, v, decay, scale, initial_state, output_final_state, cu_seqlens, gv=gv, reverse=reverse, **kwargs
    )


fused_chunk_gla = chunk_gla

"""Retention under fla's names: a constant decay of 1 - 2 ** (-5 - h) for head h. Source: arXiv 2307.08621."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fla.ops.simple_gla import chunk_simple_gla


def chunk_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """q, k [B, T, H, K], v [B, T, H, V]."""
    head = torch.arange(q.shape[2], dtype=torch.float, device=q.device)
    return chunk_simple_gla(
        q=q,
        k=k,
        v=v,
        g_gamma=(1 - 2.0 ** (-5.0 - head)).log(),
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
        **kwargs,
    )


def parallel_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    output_attentions: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_retention`, without a state; the scores are not kept."""
    if output_attentions:
        raise NotImplementedError("the CPU stand-in of fla has no output_attentions; leave it out")
    return chunk_retention(q, k, v, scale, cu_seqlens=cu_seqlens)[0], None


fused_chunk_retention = chunk_retention
fused_recurrent_retention = chunk_retention

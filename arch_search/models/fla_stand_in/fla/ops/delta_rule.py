"""The delta rule under fla's names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fla.modules.l2norm import l2norm
from fla.ops.segments import run
from kernels.delta_rule.chunk import delta_rule_chunk_with_state


def chunk_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """q, k [B, T, H, K], v [B, T, H, V], beta [B, T, H]."""
    if use_qk_l2norm_in_kernel:
        q, k = l2norm(q), l2norm(k)
    return run(
        delta_rule_chunk_with_state,
        {"q": q, "k": k, "v": v, "beta": beta},
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
        unused=kwargs,
    )


def fused_recurrent_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_delta_rule`; beta is 1 where None."""
    strength = torch.ones_like(q[..., 0]) if beta is None else beta
    return chunk_delta_rule(
        q, k, v, strength, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, cu_seqlens, **kwargs
    )


fused_chunk_delta_rule = chunk_delta_rule

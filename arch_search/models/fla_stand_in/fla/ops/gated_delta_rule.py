"""The gated delta rule under fla's names. The two functions order g and beta differently, as in fla."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fla.modules.l2norm import l2norm
from fla.ops.segments import run
from kernels.common import state_dtype
from kernels.gated_delta_rule.chunk import gated_delta_rule_chunk_with_state


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """q, k [B, T, H, K], v [B, T, HV, V], log decay g and beta [B, T, HV]; H divides HV.

    `use_gate_in_kernel`: the log decay is -exp(A_log) softplus(g + dt_bias); `use_beta_sigmoid_in_kernel`: beta is
    sigmoid(beta), twice that with `allow_neg_eigval`.
    """
    if use_gate_in_kernel:
        wide = g.to(state_dtype(g))
        g = -A_log.to(wide.dtype).exp() * F.softplus(wide if dt_bias is None else wide + dt_bias.to(wide.dtype))
    if use_beta_sigmoid_in_kernel:
        beta = beta.sigmoid() * (2.0 if allow_neg_eigval else 1.0)
    if use_qk_l2norm_in_kernel:
        q, k = l2norm(q), l2norm(k)
    shared_by = v.shape[2] // q.shape[2]
    q, k = (x.repeat_interleave(shared_by, dim=2) for x in (q, k))
    return run(
        gated_delta_rule_chunk_with_state,
        {"q": q, "k": k, "v": v, "beta": beta, "log_g": g},
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
        unused=kwargs,
    )


def fused_recurrent_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_gated_delta_rule`; no decay where g is None, beta 1 where None."""
    decay = torch.zeros_like(v[..., 0]) if g is None else g
    strength = torch.ones_like(v[..., 0]) if beta is None else beta
    return chunk_gated_delta_rule(
        q,
        k,
        v,
        decay,
        strength,
        scale,
        initial_state,
        output_final_state,
        use_qk_l2norm_in_kernel,
        cu_seqlens,
        gk=gk,
        gv=gv,
        **kwargs,
    )

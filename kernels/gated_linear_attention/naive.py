"""Gated linear attention, token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.common import Result, first_state, read_out_scale


def gated_linear_attention_naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_g: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
) -> Result:
    """Lets the state decay before every write; the definition for every fast version.

    S_t = diag(exp(log_g_t)) S_{t-1} + k_t v_t^T,   o_t = scale * S_t^T q_t

    Args:
        q, k: queries and keys [B, T, H, K].
        v: values [B, T, H, V].
        log_g: log decay, at most 0, natural logarithm: [B, T, H, K] per key channel, or [B, T, H] per head.
        scale: factor on the read-out, K ** -0.5 if None.
        initial_state: S_0 [B, H, K, V], zero if None.

    Source: Gated Linear Attention Transformers, arXiv 2312.06635, equation 3.
    """
    state = first_state(k, v, initial_state)
    q, k, values = (x.to(state.dtype) for x in (q, k, v))
    decay = (log_g if log_g.ndim == k.ndim else log_g.unsqueeze(-1)).to(state.dtype).exp()
    outputs = []
    for t in range(v.shape[1]):
        state = decay[:, t, :, :, None] * state + k[:, t, :, :, None] * values[:, t, :, None, :]
        outputs.append(read_out_scale(q, scale) * torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return Result(output=torch.stack(outputs, dim=1).to(v.dtype), state=state)

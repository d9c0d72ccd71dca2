"""The gated delta rule, token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.common import Result, first_state, read_out_scale


def gated_delta_rule_naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_g: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
) -> Result:
    """Lets the state decay, then applies the delta rule; the definition for every fast version.

    S_t = exp(log_g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,   o_t = scale * S_t^T q_t

    Args:
        q, k: queries and keys [B, T, H, K]; k has unit length along K.
        v: values [B, T, H, V].
        beta: writing strength [B, T, H], in (0, 1), or (0, 2) for negative eigenvalues.
        log_g: log decay [B, T, H], at most 0, natural logarithm.
        scale: factor on the read-out, K ** -0.5 if None.
        initial_state: S_0 [B, H, K, V], zero if None.

    Source: Gated Delta Networks, arXiv 2412.06464, equation 10.
    """
    state = first_state(k, v, initial_state)
    q, k, values, strength, decay = (x.to(state.dtype) for x in (q, k, v, beta, log_g.exp()))
    outputs = []
    for t in range(v.shape[1]):
        state = decay[:, t, :, None, None] * state
        stored = torch.einsum("bhk,bhkv->bhv", k[:, t], state)
        change = strength[:, t, :, None] * (values[:, t] - stored)
        state = state + k[:, t, :, :, None] * change[:, :, None, :]
        outputs.append(read_out_scale(q, scale) * torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return Result(output=torch.stack(outputs, dim=1).to(v.dtype), state=state)

"""Linear attention, token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.common import Result, first_state, read_out_scale


def linear_attention_naive(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, initial_state: Tensor | None = None
) -> Result:
    """Adds every key-value pair to a matrix and reads it with the query; the definition for every fast version.

    S_t = S_{t-1} + k_t v_t^T,   o_t = scale * S_t^T q_t

    Without feature map and normaliser: apply a map to q and k before; for a normaliser append a column of ones to v.

    Args:
        q, k: queries and keys [B, T, H, K].
        v: values [B, T, H, V].
        scale: factor on the read-out, K ** -0.5 if None.
        initial_state: S_0 [B, H, K, V], zero if None.

    Source: Transformers are RNNs, arXiv 2006.16236, equations 16-20.
    """
    state = first_state(k, v, initial_state)
    q, k, values = (x.to(state.dtype) for x in (q, k, v))
    outputs = []
    for t in range(v.shape[1]):
        state = state + k[:, t, :, :, None] * values[:, t, :, None, :]
        outputs.append(read_out_scale(q, scale) * torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return Result(output=torch.stack(outputs, dim=1).to(v.dtype), state=state)

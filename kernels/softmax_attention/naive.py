"""Causal softmax attention, token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.common import read_out_scale, state_dtype


def softmax_attention_naive(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """Averages the values so far by the softmax of their keys with the query; the definition for every fast version.

    o_t = sum_{j <= t} p_tj v_j,   p_t = softmax_{j <= t}(scale * k_j^T q_t)

    Args:
        q, k: queries and keys [B, T, H, K].
        v: values [B, T, H, V].
        scale: factor on the scores, K ** -0.5 if None.

    Returns:
        Output [B, T, H, V] in the dtype of v.

    Source: Attention Is All You Need, arXiv 1706.03762, equation 1, with the mask of section 3.2.3.
    """
    queries, keys, values = (x.to(state_dtype(v)) for x in (q, k, v))
    outputs = []
    for t in range(v.shape[1]):
        scores = read_out_scale(q, scale) * torch.einsum("bhk,bjhk->bhj", queries[:, t], keys[:, : t + 1])
        outputs.append(torch.einsum("bhj,bjhv->bhv", scores.softmax(-1), values[:, : t + 1]))
    return torch.stack(outputs, dim=1).to(v.dtype)

"""Gated linear attention by chunks, for one decay per head or one per key channel.

Every decay ratio is the exp of a difference that is at most 0: nothing is divided by a decay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.common import (
    CHUNK,
    Result,
    carried_state,
    decay_within,
    first_state,
    from_chunks,
    later_mask,
    read_out_scale,
    to_chunks,
)

# tokens of a block inside a chunk whose per-channel decays are compared pair by pair
BLOCK = 4


def gated_linear_attention_chunk(
    q: Tensor, k: Tensor, v: Tensor, log_g: Tensor, *, scale: float | None = None, chunk: int = CHUNK
) -> Tensor:
    """Output [B, T, H, V] of `gated_linear_attention_naive`; `chunk` (a multiple of 4) changes time and memory only."""
    return gated_linear_attention_chunk_with_state(q, k, v, log_g, scale=scale, chunk=chunk).output


def gated_linear_attention_chunk_with_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_g: Tensor,
    *,
    scale: float | None = None,
    chunk: int = CHUNK,
    initial_state: Tensor | None = None,
) -> Result:
    """As `gated_linear_attention_naive`."""
    state = first_state(k, v, initial_state)
    q_c, k_c, v_c, log_g_c = (to_chunks(x, chunk) for x in (q, k, v, log_g))
    q_c = q_c * read_out_scale(q, scale)
    per_channel = log_g.ndim == k.ndim
    # G_i: log decay from before the chunk to token i, [B, H, N, C, K] or [B, H, N, C, 1]
    total = (log_g_c if per_channel else log_g_c.unsqueeze(-1)).cumsum(3)
    whole = total[:, :, :, -1:]
    if per_channel:
        scores = _scores_per_channel(q_c, k_c, total, log_g_c)
    else:
        scores = (q_c @ k_c.mT) * decay_within(total.squeeze(-1))
    added = (k_c * (whole - total).exp()).mT @ v_c
    before, last = carried_state(state, added, whole.exp().mT)
    output = scores @ v_c + (q_c * total.exp()) @ before
    return Result(output=from_chunks(output, length=v.shape[1], dtype=v.dtype), state=last)


def _scores_per_channel(q: Tensor, k: Tensor, total: Tensor, log_g: Tensor) -> Tensor:
    """sum_c q_ic k_jc exp(G_ic - G_jc) for j <= i, else 0: [..., C, K] -> [..., C, C].

    Pairs in different blocks go through the start of the later block, s: exp(G_i - s) exp(s - G_j), both factors at
    most 1. Source: secondary chunking, arXiv 2312.06635, section 4.3.
    """
    size, blocks = q.shape[-2], q.shape[-2] // BLOCK
    q_b, k_b, total_b, log_g_b = (_cut(x, -2) for x in (q, k, total, log_g))
    start = (total_b - log_g_b)[..., :1, :]
    token = torch.arange(size, device=q.device)
    not_earlier = token >= BLOCK * torch.arange(blocks, device=q.device).unsqueeze(-1)
    from_start = (start - total.unsqueeze(-3)).masked_fill(not_earlier.unsqueeze(-1), -torch.inf).exp()
    across = (q_b * (total_b - start).exp()) @ (k.unsqueeze(-3) * from_start).mT
    pairs = (total_b.unsqueeze(-2) - total_b.unsqueeze(-3)).masked_fill(later_mask(BLOCK, q).unsqueeze(-1), -torch.inf)
    inside = (pairs.exp() * (q_b.unsqueeze(-2) * k_b.unsqueeze(-3))).sum(-1)
    own_block = torch.eye(blocks, dtype=q.dtype, device=q.device)[:, None, :, None]
    scores = _cut(across, -1) + inside.unsqueeze(-2) * own_block
    return scores.flatten(-2).flatten(-3, -2)


def _cut(x: Tensor, dim: int) -> Tensor:
    """Splits the tokens along `dim` into blocks."""
    blocks: Tensor = torch.unflatten(x, dim, (x.shape[dim] // BLOCK, BLOCK))
    return blocks

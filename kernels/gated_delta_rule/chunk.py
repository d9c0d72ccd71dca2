"""The gated delta rule by chunks: one triangular solve for all chunks, then one step per chunk."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.common import CHUNK, Result, decay_within, first_state, from_chunks, later_mask, read_out_scale, to_chunks


def gated_delta_rule_chunk(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_g: Tensor,
    *,
    scale: float | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """Output [B, T, H, V] of `gated_delta_rule_naive`; `chunk` changes time and memory only."""
    return gated_delta_rule_chunk_with_state(q, k, v, beta, log_g, scale=scale, chunk=chunk).output


def gated_delta_rule_chunk_with_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_g: Tensor,
    *,
    scale: float | None = None,
    chunk: int = CHUNK,
    initial_state: Tensor | None = None,
) -> Result:
    """As `gated_delta_rule_naive`.

    With G_i the sum of log_g up to token i of a chunk that starts from S, the changes u_i solve
    (I + tril(diag(beta) (K K^T * exp(G_i - G_j)), -1)) U = diag(beta) (V - diag(exp(G)) K S).
    Source: arXiv 2412.06464, section 3.3 (extended UT transform). Every exponent is at most 0.
    """
    state = first_state(k, v, initial_state)
    q_c, k_c, v_c, log_g_c = (to_chunks(x, chunk) for x in (q, k, v, log_g))
    beta_c = to_chunks(beta, chunk).unsqueeze(-1)
    total = log_g_c.cumsum(3)
    ratio = decay_within(total)
    since_start = total.unsqueeze(-1).exp()
    to_end = (total[..., -1:] - total).unsqueeze(-1).exp()
    q_c = q_c * read_out_scale(q, scale)
    lower = (beta_c * (k_c @ k_c.mT) * ratio).masked_fill(later_mask(chunk, k_c, diagonal=0), 0.0)
    right = torch.cat([beta_c * v_c, beta_c * since_start * k_c], dim=-1)
    # the solve has no kernel for bfloat16, which autocast makes of the product
    solved = torch.linalg.solve_triangular(lower.to(state.dtype), right, upper=False, unitriangular=True)
    changes, keys = solved.split([v.shape[3], k.shape[3]], dim=-1)
    scores = (q_c @ k_c.mT) * ratio
    reads, writes, kept = q_c * since_start, k_c * to_end, since_start[..., -1:, :]
    outputs = []
    for n in range(q_c.shape[2]):
        change = changes[:, :, n] - keys[:, :, n] @ state
        outputs.append(reads[:, :, n] @ state + scores[:, :, n] @ change)
        state = kept[:, :, n] * state + writes[:, :, n].mT @ change
    return Result(output=from_chunks(torch.stack(outputs, dim=2), length=v.shape[1], dtype=v.dtype), state=state)

"""The delta rule by chunks: one triangular solve for all chunks, then one step per chunk."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.common import CHUNK, Result, first_state, from_chunks, later_mask, read_out_scale, to_chunks


def delta_rule_chunk(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, *, scale: float | None = None, chunk: int = CHUNK
) -> Tensor:
    """Output [B, T, H, V] of `delta_rule_naive`; `chunk` changes time and memory only."""
    return delta_rule_chunk_with_state(q, k, v, beta, scale=scale, chunk=chunk).output


def delta_rule_chunk_with_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    chunk: int = CHUNK,
    initial_state: Tensor | None = None,
) -> Result:
    """As `delta_rule_naive`.

    Inside a chunk that starts from S, the changes u_i = beta_i (v_i - S_{i-1}^T k_i) solve
    (I + tril(diag(beta) K K^T, -1)) U = diag(beta) (V - K S). The inverse is applied to V and K before S is known.
    Source: arXiv 2406.06484, equations 10 and 11 (UT transform).
    """
    state = first_state(k, v, initial_state)
    q_c, k_c, v_c = (to_chunks(x, chunk) for x in (q, k, v))
    beta_c = to_chunks(beta, chunk).unsqueeze(-1)
    q_c = q_c * read_out_scale(q, scale)
    lower = (beta_c * (k_c @ k_c.mT)).masked_fill(later_mask(chunk, k_c, diagonal=0), 0.0)
    right = torch.cat([beta_c * v_c, beta_c * k_c], dim=-1)
    # the solve has no kernel for bfloat16, which autocast makes of the product
    solved = torch.linalg.solve_triangular(lower.to(state.dtype), right, upper=False, unitriangular=True)
    changes, keys = solved.split([v.shape[3], k.shape[3]], dim=-1)
    scores = (q_c @ k_c.mT).masked_fill(later_mask(chunk, q_c), 0.0)
    outputs = []
    for n in range(q_c.shape[2]):
        change = changes[:, :, n] - keys[:, :, n] @ state
        outputs.append(q_c[:, :, n] @ state + scores[:, :, n] @ change)
        state = state + k_c[:, :, n].mT @ change
    return Result(output=from_chunks(torch.stack(outputs, dim=2), length=v.shape[1], dtype=v.dtype), state=state)

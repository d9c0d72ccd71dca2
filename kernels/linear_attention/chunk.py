"""Linear attention by chunks: attention inside a chunk, one matrix of state between chunks."""

from __future__ import annotations

from torch import Tensor

from kernels.common import CHUNK, Result, carried_state, first_state, from_chunks, later_mask, read_out_scale, to_chunks


def linear_attention_chunk(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, chunk: int = CHUNK
) -> Tensor:
    """Output [B, T, H, V] of `linear_attention_naive`; `chunk` changes time and memory only."""
    return linear_attention_chunk_with_state(q, k, v, scale=scale, chunk=chunk).output


def linear_attention_chunk_with_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    chunk: int = CHUNK,
    initial_state: Tensor | None = None,
) -> Result:
    """As `linear_attention_naive`."""
    state = first_state(k, v, initial_state)
    q_c, k_c, v_c = (to_chunks(x, chunk) for x in (q, k, v))
    q_c = q_c * read_out_scale(q, scale)
    scores = (q_c @ k_c.mT).masked_fill(later_mask(chunk, q_c), 0.0)
    before, last = carried_state(state, k_c.mT @ v_c, None)
    output = scores @ v_c + q_c @ before
    return Result(output=from_chunks(output, length=v.shape[1], dtype=v.dtype), state=last)

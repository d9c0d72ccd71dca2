"""State space duality by chunks: gated linear attention with q = c, k = b, v = dt x and log decay dt a."""

from __future__ import annotations

from torch import Tensor

from kernels.common import CHUNK, Result, state_dtype
from kernels.gated_linear_attention.chunk import gated_linear_attention_chunk_with_state


def ssd_chunk(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """Output [B, T, H, P] of `ssd_naive`; `chunk` changes time and memory only."""
    return ssd_chunk_with_state(x, dt, a, b, c, chunk=chunk).output


def ssd_chunk_with_state(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    chunk: int = CHUNK,
    initial_state: Tensor | None = None,
) -> Result:
    """As `ssd_naive`. Source: arXiv 2405.21060, section 6 (block decomposition)."""
    dtype = state_dtype(x)
    step = dt.to(dtype)
    shared_by = x.shape[2] // b.shape[2]
    result = gated_linear_attention_chunk_with_state(
        c.repeat_interleave(shared_by, dim=2),
        b.repeat_interleave(shared_by, dim=2),
        x.to(dtype) * step.unsqueeze(-1),
        step * a.to(dtype),
        scale=1.0,
        chunk=chunk,
        initial_state=initial_state,
    )
    return Result(output=result.output.to(x.dtype), state=result.state)

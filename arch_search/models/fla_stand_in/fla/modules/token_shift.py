"""The difference to the token before."""

from __future__ import annotations

import torch
from torch import Tensor

from fla.ops.segments import segments


def token_shift(
    x: Tensor,
    cu_seqlens: Tensor | None = None,
    cache: Tensor | None = None,
    output_cache: bool = False,
    chunk_indices: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """x_{t-1} - x_t for x [B, T, D], zero before the first token; `cache` [N, D] or [N, 1, D] is the token before."""
    before = None if cache is None else cache.reshape(-1, 1, x.shape[-1])
    parts, last = [], []
    for part, first in segments(x, before, cu_seqlens):
        first = part.new_zeros(part.shape[0], 1, part.shape[2]) if first is None else first.to(part.dtype)
        parts.append(torch.cat([first, part[:, :-1]], dim=1) - part)
        last.append(part[:, -1:])
    shifted = torch.cat(parts, dim=0 if cu_seqlens is None else 1)
    return (shifted, torch.cat(last)) if output_cache else shifted

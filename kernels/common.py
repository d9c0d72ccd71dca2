"""What the chunked operators share: dtype of the state, cutting time into chunks, decays inside a chunk.

B batch, T tokens, H heads, K key width, V value width, N chunks, C tokens in a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# tokens in a chunk: on a CPU 32 is the fastest of 16, 32 and 64 for every operator or within a tenth of it
CHUNK = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Output [B, T, H, V] in the dtype of v, and the state [B, H, K, V] after the last token in the state's dtype."""

    output: Tensor
    state: Tensor


def state_dtype(x: Tensor) -> torch.dtype:
    """float32 for float32 and anything narrower, float64 for float64."""
    return torch.promote_types(x.dtype, torch.float32)


def read_out_scale(q: Tensor, scale: float | None) -> float:
    """`scale`, or the usual K ** -0.5 where it is None."""
    return q.shape[-1] ** -0.5 if scale is None else float(scale)


def first_state(k: Tensor, v: Tensor, initial_state: Tensor | None) -> Tensor:
    """The state before the first token [B, H, K, V] from k [B, T, H, K] and v [B, T, H, V]: given, or zero."""
    dtype = state_dtype(v)
    if initial_state is not None:
        return initial_state.to(dtype)
    return torch.zeros(v.shape[0], v.shape[2], k.shape[3], v.shape[3], dtype=dtype, device=v.device)


def to_chunks(x: Tensor, chunk: int) -> Tensor:
    """[B, T, H, ...] -> [B, H, N, C, ...] in the state's dtype, the last chunk padded with zeros."""
    batch, length = x.shape[:2]
    padding = -length % chunk
    x = x.to(state_dtype(x))
    if padding:
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, padding))
    return x.reshape(batch, (length + padding) // chunk, chunk, *x.shape[2:]).movedim(3, 1).contiguous()


def from_chunks(x: Tensor, *, length: int, dtype: torch.dtype) -> Tensor:
    """[B, H, N, C, V] -> [B, T, H, V] in `dtype`, the padding cut off."""
    batch, heads, chunks, size, width = x.shape
    return x.movedim(1, 3).reshape(batch, chunks * size, heads, width)[:, :length].to(dtype)


def decay_within(total: Tensor) -> Tensor:
    """exp(total_i - total_j) for j <= i and 0 for later j: [..., C] -> [..., C, C].

    `total` is the running sum of log decays. The difference is masked before exp, so nothing overflows and no
    gradient is NaN.
    """
    return (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(later_mask(total.shape[-1], total), -torch.inf).exp()


def carried_state(initial: Tensor, added: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """States before every chunk [B, H, N, K, V] and after the last [B, H, K, V].

    S_{n+1} = kept_n * S_n + added_n, with added [B, H, N, K, V] and kept [B, H, N, K or 1, 1], or 1 where None.
    """
    if kept is None:
        states = torch.cat([initial.unsqueeze(2), added], dim=2).cumsum(2)
        return states[:, :, :-1], states[:, :, -1]
    before, state = [], initial
    for share, new in zip(kept.unbind(2), added.unbind(2), strict=True):
        before.append(state)
        state = torch.addcmul(new, share, state)
    return torch.stack(before, dim=2), state


def later_mask(size: int, like: Tensor, *, diagonal: int = 1) -> Tensor:
    """True where column j lies at or after i + diagonal: [size, size] on the device of `like`."""
    return torch.ones(size, size, dtype=torch.bool, device=like.device).triu(diagonal)

"""Padded batches to one row of tokens and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def get_unpad_data(attention_mask: Tensor) -> tuple[Tensor, Tensor, int]:
    """Positions of the real tokens in the flattened mask [B, T], bounds of the sequences [B + 1] int32, longest one."""
    lengths = attention_mask.sum(dim=-1, dtype=torch.int32)
    indices = attention_mask.flatten().nonzero().flatten()
    bounds = F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return indices, bounds, int(lengths.max())


def index_first_axis(x: Tensor, indices: Tensor) -> Tensor:
    """Rows `indices` of x [B * T, ...]."""
    return x[indices]


def pad_input(hidden_states: Tensor, indices: Tensor, batch_size: int, seq_len: int) -> Tensor:
    """[real tokens, ...] -> [B, T, ...], zeros where the mask was 0."""
    flat = hidden_states.new_zeros(batch_size * seq_len, *hidden_states.shape[1:])
    return flat.index_copy(0, indices, hidden_states).unflatten(0, (batch_size, seq_len))

"""Lengths and bounds of packed sequences."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def prepare_lens(cu_seqlens: Tensor) -> Tensor:
    return cu_seqlens.diff()


def prepare_lens_from_mask(mask: Tensor) -> Tensor:
    """Real tokens of each row of the mask [B, T]."""
    return mask.sum(dim=-1, dtype=torch.int32)


def prepare_cu_seqlens_from_lens(lens: Tensor, dtype: torch.dtype | None = torch.int32) -> Tensor:
    """Bounds [B + 1] of sequences laid end to end."""
    return F.pad(lens.cumsum(0, dtype=dtype), (1, 0))


def prepare_cu_seqlens_from_mask(mask: Tensor, dtype: torch.dtype | None = torch.int32) -> Tensor:
    return prepare_cu_seqlens_from_lens(prepare_lens_from_mask(mask), dtype)

"""Causal softmax attention with rotary positions.

Source: Attention Is All You Need, arXiv 1706.03762, section 3.2; RoFormer, arXiv 2104.09864, equation 34.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kernels.softmax_attention.fast import softmax_attention


class SoftmaxAttention(nn.Module):
    def __init__(
        self, hidden_size: int = 1024, num_heads: int = 4, layer_idx: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv_proj = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        batch, length, width = hidden_states.shape
        shape = (batch, length, self.num_heads, width // self.num_heads)
        q, k, v = (x.reshape(shape) for x in self.qkv_proj(hidden_states).chunk(3, dim=-1))
        output: Tensor = self.o_proj(softmax_attention(_rotated(q), _rotated(k), v).reshape(batch, length, width))
        return output


def _rotated(x: Tensor, base: float = 10_000.0) -> Tensor:
    """Turns channel pairs (i, i + K/2) of x [B, T, H, K] by t * base ** (-2 i / K)."""
    half = x.shape[-1] // 2
    dtype = torch.promote_types(x.dtype, torch.float32)
    speed = base ** (-torch.arange(half, device=x.device, dtype=dtype) / half)
    angle = torch.arange(x.shape[1], device=x.device, dtype=dtype)[:, None, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half : 2 * half]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, x[..., 2 * half :]], dim=-1)

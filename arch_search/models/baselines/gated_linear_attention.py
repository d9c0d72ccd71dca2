"""Gated linear attention: each key channel forgets at a rate the token sets.

Source: Gated Linear Attention Transformers, arXiv 2312.06635, equation 3 and section 4.4: decay
sigmoid(x W1 W2 + b) ** (1 / 16) of rank 16, keys half as wide as values, output normed per head and gated by
swish(x W_r + b_r). The short convolution is not in that paper: every linear baseline here has one, so that they differ
in the rule of the state.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kernels.causal_conv.layer import ShortConvolution
from kernels.gated_linear_attention.chunk import gated_linear_attention_chunk

DECAY_RANK = 16
DECAY_ROOT = 16
OPEN_GATE = 1.28  # silu(1.28) = 1: small models learn sooner with a gate that starts open


class GatedLinearAttention(nn.Module):
    def __init__(
        self, hidden_size: int = 1024, num_heads: int = 4, layer_idx: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.widths = [hidden_size // 2, hidden_size // 2, hidden_size]
        self.qkv_proj = nn.Linear(hidden_size, sum(self.widths), bias=False)
        self.conv = ShortConvolution(sum(self.widths))
        self.decay_proj = nn.Sequential(
            nn.Linear(hidden_size, DECAY_RANK, bias=False), nn.Linear(DECAY_RANK, hidden_size // 2)
        )
        self.gate_proj = nn.Linear(hidden_size, hidden_size)
        nn.init.constant_(self.gate_proj.bias, OPEN_GATE)
        self.o_norm = nn.RMSNorm(hidden_size // num_heads, eps=1e-5)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        batch, length, _ = hidden_states.shape
        log_decay = F.logsigmoid(self.decay_proj(hidden_states)) / DECAY_ROOT
        parts = (*self.conv(self.qkv_proj(hidden_states)).split(self.widths, dim=-1), log_decay)
        q, k, v, log_g = (x.reshape(batch, length, self.num_heads, -1) for x in parts)
        mixed = self.o_norm(gated_linear_attention_chunk(q, k, v, log_g)).flatten(-2)
        output: Tensor = self.o_proj(mixed * F.silu(self.gate_proj(hidden_states)))
        return output

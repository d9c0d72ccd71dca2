"""SwiGLU, the reference of the search: a feed-forward layer whose inner units are multiplied with a gate.

y = W_down (silu(W_gate x) * (W_up x)). Source: GLU Variants Improve Transformer, arXiv 2002.05202, equation 6.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class FeedForward(nn.Module):
    """Feed-forward layer: hidden_states [B, T, D] -> [B, T, D], each token alone."""

    def __init__(
        self,
        hidden_size: int = 1024,
        intermediate_size: int | None = None,
        layer_idx: int | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__()
        width = intermediate_size or max(8, 8 * round(hidden_size / 3))
        self.gate = nn.Linear(hidden_size, width, bias=False)
        self.up = nn.Linear(hidden_size, width, bias=False)
        self.down = nn.Linear(width, hidden_size, bias=False)

    def activate(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return F.silu(gate) * up

    def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
        inner = self.activate(self.gate(hidden_states), self.up(hidden_states))
        down: torch.Tensor = self.down(inner)
        return down

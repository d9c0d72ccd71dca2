"""Squared ReLU: y = W_down relu(W_up x)^2, inner width 4 D. Source: Primer, arXiv 2109.08668."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class SquaredReluLayer(nn.Module):
    def __init__(
        self,
        hidden_size: int = 1024,
        intermediate_size: int | None = None,
        layer_idx: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        width = intermediate_size or 4 * hidden_size
        self.up = nn.Linear(hidden_size, width, bias=False)
        self.down = nn.Linear(width, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        output: Tensor = self.down(F.relu(self.up(hidden_states)).square())
        return output

"""The feed-forward layer of GPT-2 and BERT: y = W_down gelu(W_up x), inner width 4 D. GELU: arXiv 1606.08415."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class GeluLayer(nn.Module):
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
        output: Tensor = self.down(F.gelu(self.up(hidden_states)))
        return output

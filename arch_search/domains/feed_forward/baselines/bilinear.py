"""A gate without activation: y = W_down ((W_gate x) * (W_up x)). Source: arXiv 2002.05202, equation 6."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class BilinearLayer(nn.Module):
    def __init__(
        self,
        hidden_size: int = 1024,
        intermediate_size: int | None = None,
        layer_idx: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        width = intermediate_size or max(8, 8 * round(hidden_size / 3))
        self.gate = nn.Linear(hidden_size, width, bias=False)
        self.up = nn.Linear(hidden_size, width, bias=False)
        self.down = nn.Linear(width, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        output: Tensor = self.down(self.gate(hidden_states) * self.up(hidden_states))
        return output

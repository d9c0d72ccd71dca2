"""The short convolution as a layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kernels.causal_conv.fast import causal_conv


class ShortConvolution(nn.Conv1d):
    """Causal depthwise convolution over time, then SiLU: [B, T, D] -> [B, T, D].

    Parameters and their initialisation are those of a depthwise torch.nn.Conv1d (weight [D, 1, W], no bias).
    """

    def __init__(self, d_model: int, taps: int = 4) -> None:
        super().__init__(d_model, d_model, taps, groups=d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(causal_conv(x, self.weight.squeeze(1)))

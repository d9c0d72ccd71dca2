"""Causal depthwise convolution, token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.common import state_dtype


def causal_conv_naive(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, history: Tensor | None = None
) -> Tensor:
    """Weighs the last W inputs of every channel; the definition for every fast version.

    y_td = bias_d + sum_{w=0}^{W-1} weight_dw x_{t-W+1+w, d}

    Args:
        x: inputs [B, T, D].
        weight: one filter per channel [D, W]; the last tap meets the present token.
        bias: [D].
        history: the W - 1 inputs before the first [B, W - 1, D], zero if None.

    Returns:
        Output [B, T, D] in the dtype of x.

    Source: Mamba, arXiv 2312.00752, section 3.4.
    """
    taps, dtype = weight.shape[1], state_dtype(x)
    before = x.new_zeros(x.shape[0], taps - 1, x.shape[2]) if history is None else history
    padded = torch.cat([before.to(dtype), x.to(dtype)], dim=1)
    offset = 0.0 if bias is None else bias.to(dtype)
    outputs = [
        torch.einsum("bwd,dw->bd", padded[:, t : t + taps], weight.to(dtype)) + offset for t in range(x.shape[1])
    ]
    return torch.stack(outputs, dim=1).to(x.dtype)

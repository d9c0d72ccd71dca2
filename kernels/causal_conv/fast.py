"""Causal depthwise convolution as a sum of shifted inputs: no change of layout, fast for a few taps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, history: Tensor | None = None) -> Tensor:
    """As `causal_conv_naive`, in the dtype torch promotes x and weight to."""
    length, taps = x.shape[1], weight.shape[1]
    padded = F.pad(x, (0, 0, taps - 1, 0)) if history is None else torch.cat([history.to(x.dtype), x], dim=1)
    output = padded[:, taps - 1 :] * weight[:, -1]
    for tap in range(taps - 1):
        output = torch.addcmul(output, padded[:, tap : tap + length], weight[:, tap])
    output = output if bias is None else output + bias
    return output.to(x.dtype)

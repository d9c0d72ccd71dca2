"""Activations by fla's names."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

sigmoid = torch.sigmoid
swish = F.silu


def logsigmoid(x: Tensor, temperature: float = 1.0) -> Tensor:
    return F.logsigmoid(x) / temperature


def elu_p1(x: Tensor) -> Tensor:
    """elu(x) + 1, without the rounding of the sum where x is negative."""
    return torch.where(x >= 0, x + 1, x.clamp(max=0).exp())


def sqrelu(x: Tensor) -> Tensor:
    return F.relu(x).square()


def swiglu(x: Tensor, y: Tensor) -> Tensor:
    return F.silu(x) * y


def swiglu_linear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(swiglu(x, y), weight, bias)


def fast_gelu_impl(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACT2FN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "sigmoid": sigmoid,
    "logsigmoid": logsigmoid,
    "silu": swish,
    "swish": swish,
    "sqrelu": sqrelu,
    "gelu": fast_gelu_impl,
}

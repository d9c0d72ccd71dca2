"""Norms with fla's constructor and its optional residual."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.common import state_dtype


class RMSNorm(nn.Module):
    """x / rms(x) * weight along the last dimension, in the dtype of x."""

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        eps: float = 1e-5,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.elementwise_affine = elementwise_affine
        self.eps = eps
        ones = torch.ones(hidden_size, device=device, dtype=dtype)
        self.weight = nn.Parameter(ones) if elementwise_affine else None
        self.bias = nn.Parameter(torch.zeros_like(ones)) if elementwise_affine and bias else None

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The norm of x + residual; with `prenorm` also that sum, in float32 where asked for."""
        total = x if residual is None else x + residual
        normed = self.scaled(self.normed(total.to(state_dtype(total)))).to(x.dtype)
        return (normed, total.to(state_dtype(total)) if residual_in_fp32 else total) if prenorm else normed

    def normed(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()

    def scaled(self, x: Tensor) -> Tensor:
        x = x if self.weight is None else x * self.weight
        return x if self.bias is None else x + self.bias


class LayerNorm(RMSNorm):
    """As RMSNorm after the mean is taken off."""

    def normed(self, x: Tensor) -> Tensor:
        return super().normed(x - x.mean(-1, keepdim=True))


class GroupNorm(RMSNorm):
    """A LayerNorm, or an RMSNorm with `is_rms_norm`, within each of `num_groups` groups of neighbouring channels."""

    def __init__(
        self,
        num_groups: int,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        eps: float = 1e-5,
        is_rms_norm: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if hidden_size % num_groups:
            raise ValueError(f"hidden_size={hidden_size} is not a multiple of num_groups={num_groups}")
        super().__init__(hidden_size, elementwise_affine, bias, eps, device, dtype)
        self.num_groups = num_groups
        self.is_rms_norm = is_rms_norm

    def normed(self, x: Tensor) -> Tensor:
        groups = x.unflatten(-1, (self.num_groups, -1))
        centred = groups if self.is_rms_norm else groups - groups.mean(-1, keepdim=True)
        return super().normed(centred).flatten(-2)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """x / rms(x) * weight + bias along the last dimension, in the dtype of x."""
    wide = x.to(state_dtype(x))
    normed = wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    normed = normed if weight is None else normed * weight
    return (normed if bias is None else normed + bias).to(x.dtype)


def rms_norm_linear(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    eps: float = 1e-5,
) -> Tensor:
    return F.linear(rms_norm(x, norm_weight, norm_bias, eps), linear_weight, linear_bias)

"""Norms with fla's constructor and its optional residual."""

from __future__ import annotations

import torch
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

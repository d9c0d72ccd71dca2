"""RMSNorm followed by a gate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fla.modules.layernorm import RMSNorm
from kernels.common import state_dtype

_GATES = {"swish": F.silu, "silu": F.silu, "sigmoid": torch.sigmoid}


class FusedRMSNormGated(RMSNorm):
    """rmsnorm(x) * weight * activation(g), in the dtype of x."""

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        eps: float = 1e-5,
        activation: str = "swish",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, eps=eps, device=device, dtype=dtype)
        if activation not in _GATES:
            raise ValueError(f"activation={activation}: expected one of {', '.join(_GATES)}")
        self.activation = activation

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        g: Tensor,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        total = x if residual is None else x + residual
        wide = self.scaled(self.normed(total.to(state_dtype(total))))
        gated = (wide * _GATES[self.activation](g.to(wide.dtype))).to(x.dtype)
        return (gated, total.to(state_dtype(total)) if residual_in_fp32 else total) if prenorm else gated


class FusedRMSNormSwishGate(FusedRMSNormGated):
    """The older name."""

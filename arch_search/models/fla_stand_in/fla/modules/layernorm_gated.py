"""Norms with a gate before or after them, over groups of channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.common import state_dtype


class RMSNormGated(nn.Module):
    """rmsnorm(x * silu(z)) * weight, or rmsnorm(x) * weight * silu(z) with `norm_before_gate`, in the dtype of x."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.group_size = group_size
        self.norm_before_gate = norm_before_gate
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        wide = x.to(state_dtype(x))
        gate = 1.0 if z is None else F.silu(z.to(wide.dtype))
        wide = wide if self.norm_before_gate else wide * gate
        groups = wide.unflatten(-1, (-1, self.group_size or x.shape[-1]))
        normed = (groups * (groups.square().mean(-1, keepdim=True) + self.eps).rsqrt()).flatten(-2) * self.weight
        return (normed * gate if self.norm_before_gate else normed).to(x.dtype)

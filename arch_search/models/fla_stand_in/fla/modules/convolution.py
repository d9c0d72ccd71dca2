"""The short convolution with fla's arguments and its cache."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fla.ops.segments import segments
from kernels.causal_conv.fast import causal_conv


class ShortConvolution(nn.Conv1d):
    """Causal depthwise convolution over time and an optional SiLU; returns (y [B, T, D], cache [N, D, W] or None)."""

    def __init__(
        self,
        hidden_size: int,
        kernel_size: int,
        bias: bool = False,
        activation: str | None = "silu",
        backend: str | None = "triton",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            hidden_size,
            hidden_size,
            kernel_size,
            groups=hidden_size,
            bias=bias,
            padding=kernel_size - 1,
            device=device,
            dtype=dtype,
        )
        if activation not in (None, "silu", "swish"):
            raise ValueError(f"activation={activation}: expected silu, swish or None")
        self.hidden_size = hidden_size
        self.activation = activation

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Tensor | None = None,
        output_final_state: bool = False,
        cu_seqlens: Tensor | None = None,
        chunk_indices: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """x [B, T, D]; `cache` holds the last W inputs of each sequence, `cu_seqlens` packs sequences into B = 1."""
        x = x if mask is None else x * mask.unsqueeze(-1).to(x.dtype)
        parts = [self._convolve(part, before) for part, before in segments(x, cache, cu_seqlens)]
        packed = 1 if cu_seqlens is not None else 0
        y = torch.cat([part for part, _ in parts], dim=packed)
        y = y if self.activation is None else F.silu(y)
        y = y if residual is None else y + residual
        return y, torch.cat([last for _, last in parts]) if output_final_state else None

    def _convolve(self, x: Tensor, cache: Tensor | None) -> tuple[Tensor, Tensor]:
        taps = self.kernel_size[0]
        before = x.new_zeros(x.shape[0], taps, x.shape[2]) if cache is None else cache.mT.to(x.dtype)
        y = causal_conv(x, self.weight.squeeze(1), self.bias, history=before[:, 1:])
        return y, torch.cat([before, x], dim=1)[:, -taps:].mT

    @property
    def state_size(self) -> int:
        return self.hidden_size * self.kernel_size[0]

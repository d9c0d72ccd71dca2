"""The short convolution with fla's arguments and its cache, as a module and as a function."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fla.ops.segments import segments
from kernels.causal_conv.fast import causal_conv

_ACTIVATIONS = (None, "silu", "swish")


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool | None = False,
    activation: str | None = None,
    backend: str | None = "triton",
    cu_seqlens: Tensor | None = None,
    chunk_indices: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """x [B, T, D], weight [D, W], bias [D]; both states hold the last W inputs of each sequence, [N, D, W]."""
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation={activation}: expected silu, swish or None")
    outputs, states = [], []
    for part, before in segments(x, initial_state, cu_seqlens):
        y, last = _convolved(part, weight, bias, before)
        outputs.append(y)
        states.append(last)
    y = torch.cat(outputs, dim=0 if cu_seqlens is None else 1)
    y = y if activation is None else F.silu(y)
    return y if residual is None else y + residual, torch.cat(states) if output_final_state else None


def causal_conv1d_update(
    x: Tensor,
    cache: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One token: x [N, D] or [N, 1, D] in its own shape, and the cache [N, D, W], which is changed in place."""
    y, last = causal_conv1d(
        x.reshape(-1, 1, x.shape[-1]), weight, bias, initial_state=cache, output_final_state=True, activation=activation
    )
    y = y.reshape(x.shape)
    return y if residual is None else y + residual, cache.copy_(last)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
    taps = weight.shape[1]
    before = x.new_zeros(x.shape[0], taps, x.shape[2]) if state is None else state.mT.to(x.dtype)
    y = causal_conv(x, weight, bias, history=before[:, 1:])
    return y, torch.cat([before, x], dim=1)[:, -taps:].mT


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
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation={activation}: expected silu, swish or None")
        self.hidden_size = hidden_size
        self.activation = activation
        self.backend = backend

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
        return causal_conv1d(
            x if mask is None else x * mask.unsqueeze(-1).to(x.dtype),
            self.weight.squeeze(1),
            self.bias,
            residual,
            initial_state=cache,
            output_final_state=output_final_state,
            activation=self.activation,
            cu_seqlens=cu_seqlens,
        )

    @property
    def state_size(self) -> int:
        return self.hidden_size * self.kernel_size[0]

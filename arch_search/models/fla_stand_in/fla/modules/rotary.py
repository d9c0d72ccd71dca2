"""Rotary positions: pairs of channels turned by an angle that grows with the position."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Turns q and k [B, T, H, D] by position * base ** (-2 i / dim), in the first `dim` channels.

    Source: arXiv 2104.09864, equation 34. The length-dependent scaling of XPos (`scale_base`) is not offered here.
    """

    def __init__(
        self,
        dim: int,
        base: float = 10000.0,
        scale_base: float | None = None,
        interleaved: bool = False,
        pos_idx_in_fp32: bool = True,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"dim={dim}: rotary positions turn pairs; give an even number")
        if scale_base is not None:
            raise NotImplementedError(
                "the CPU stand-in of fla has no scale_base; leave it out or run on a GPU with fla"
            )
        self.dim = dim
        self.interleaved = interleaved
        frequencies = base ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        seqlen_offset: int | Tensor = 0,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        chunk_indices: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`seqlen_offset` tokens came before, one number or one for each sequence; `cu_seqlens` starts anew."""
        angles = self._positions(q, seqlen_offset, cu_seqlens).unsqueeze(-1).to(self.inv_freq.dtype) * self.inv_freq
        turn = angles.cos().to(q.dtype).unsqueeze(-2), angles.sin().to(q.dtype).unsqueeze(-2)
        return self._turned(q, *turn), self._turned(k, *turn)

    @staticmethod
    def _positions(x: Tensor, offset: int | Tensor, cu_seqlens: Tensor | None) -> Tensor:
        """Positions [T], or [B, T] where each row has its own offset."""
        positions = torch.arange(x.shape[1], device=x.device)
        if cu_seqlens is not None:
            which = torch.bucketize(positions, cu_seqlens[1:], right=True)
            own = offset[which] if isinstance(offset, Tensor) else offset
            return positions - cu_seqlens[which] + own
        return positions + (offset.unsqueeze(-1) if isinstance(offset, Tensor) else offset)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        turning, kept = x[..., : self.dim], x[..., self.dim :]
        first, second = (turning[..., ::2], turning[..., 1::2]) if self.interleaved else turning.chunk(2, dim=-1)
        pair = first * cos - second * sin, second * cos + first * sin
        turned = torch.stack(pair, dim=-1).flatten(-2) if self.interleaved else torch.cat(pair, dim=-1)
        return torch.cat([turned, kept], dim=-1)

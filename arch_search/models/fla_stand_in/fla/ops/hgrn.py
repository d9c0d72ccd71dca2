"""The gated recurrence of HGRN under fla's names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fla.ops.segments import segments
from kernels.common import state_dtype


def chunk_hgrn(
    x: Tensor, g: Tensor, initial_state: Tensor | None = None, output_final_state: bool = False
) -> tuple[Tensor, Tensor | None]:
    """h_t = exp(g_t) h_{t-1} + x_t channel by channel, for inputs and log decays [B, T, D] and a state [B, D].

    By doubling: after the round of width w each token holds the last 2 w tokens. Source: arXiv 2311.04823.
    """
    wide = state_dtype(x)
    kept, h = g.to(wide).exp(), x.to(wide)
    if initial_state is not None:
        h = torch.cat([h[:, :1] + kept[:, :1] * initial_state.to(wide).unsqueeze(1), h[:, 1:]], dim=1)
    width = 1
    while width < x.shape[1]:
        h = h + kept * F.pad(h[:, :-width], (0, 0, width, 0))
        kept = kept * F.pad(kept[:, :-width], (0, 0, width, 0))
        width *= 2
    return h.to(x.dtype), h[:, -1] if output_final_state else None


def fused_recurrent_hgrn(
    x: Tensor,
    g: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_hgrn`, also for sequences packed into one row."""
    cut = zip(segments(x, initial_state, cu_seqlens), segments(g, None, cu_seqlens), strict=True)
    parts = [chunk_hgrn(part, decay, first, True) for (part, first), (decay, _) in cut]
    output = torch.cat([part for part, _ in parts], dim=0 if cu_seqlens is None else 1)
    return output, torch.cat([state for _, state in parts]) if output_final_state else None

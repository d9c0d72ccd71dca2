"""State space duality (Mamba-2), token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.common import Result, state_dtype


def ssd_naive(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, *, initial_state: Tensor | None = None) -> Result:
    """Runs a discretised state space with one decay per head; the definition for every fast version.

    S_t = exp(dt_t a) S_{t-1} + dt_t b_t x_t^T,   y_t = S_t^T c_t

    G groups share b and c among H / G heads each; N is the state's width. The skip D * x belongs to the layer.

    Args:
        x: inputs [B, T, H, P].
        dt: step size [B, T, H], above 0 (after softplus).
        a: continuous decay [H], below 0.
        b, c: input and output maps [B, T, G, N]; G divides H.
        initial_state: S_0 [B, H, N, P], zero if None.

    Source: Transformers are SSMs, arXiv 2405.21060, equation 1 with scalar-identity A (section 2.4), Listing 1.
    """
    dtype = state_dtype(x)
    heads, groups = x.shape[2], b.shape[2]
    b, c = (m.to(dtype).repeat_interleave(heads // groups, dim=2) for m in (b, c))
    values, step, decay = x.to(dtype), dt.to(dtype), a.to(dtype)
    zero = torch.zeros(x.shape[0], heads, b.shape[3], x.shape[3], dtype=dtype, device=x.device)
    state = zero if initial_state is None else initial_state.to(dtype)
    outputs = []
    for t in range(x.shape[1]):
        kept = torch.exp(step[:, t] * decay)[:, :, None, None]
        new = b[:, t, :, :, None] * values[:, t, :, None, :]
        state = kept * state + step[:, t, :, None, None] * new
        outputs.append(torch.einsum("bhn,bhnp->bhp", c[:, t], state))
    return Result(output=torch.stack(outputs, dim=1).to(x.dtype), state=state)

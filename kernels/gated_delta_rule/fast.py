"""The gated delta rule on the fastest path for its inputs, which is the same as for the delta rule."""

from __future__ import annotations

from torch import Tensor

from kernels import with_fla
from kernels.delta_rule.fast import fast_path
from kernels.dispatch import is_fast
from kernels.gated_delta_rule.chunk import gated_delta_rule_chunk


def gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor, *, scale: float | None = None
) -> Tensor:
    """Output [B, T, H, V] of `gated_delta_rule_naive` from a zero state."""
    path, why = fast_path(q, k, v, beta, log_g)
    if not is_fast("gated_delta_rule", fast=path, plain="chunk", refusal=why, like=v):
        return gated_delta_rule_chunk(q, k, v, beta, log_g, scale=scale)
    if path == "fla":
        return with_fla.gated_delta_rule_fla(q, k, v, beta, log_g, scale=scale)
    from kernels.gated_delta_rule.triton import gated_delta_rule_triton

    return gated_delta_rule_triton(q, k, v, beta, log_g, scale=scale)

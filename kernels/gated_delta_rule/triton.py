"""The gated delta rule in Triton: the kernels of the delta rule with a decay (kernels/delta_rule/triton.py)."""

from __future__ import annotations

from torch import Tensor

from kernels.delta_rule.triton import run


def gated_delta_rule_triton(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor, *, scale: float | None = None
) -> Tensor:
    """Output [B, T, H, V] of `gated_delta_rule_naive` from a zero state, differentiable once in every input.

    Products have operands of the dtype of v, sums, decays and states are float32.
    """
    return run(q, k, v, beta, log_g, scale=scale)

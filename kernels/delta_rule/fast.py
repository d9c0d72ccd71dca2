"""The delta rule on the fastest path for its inputs on a GPU: Triton, or fla for heads of 128; else plain torch."""

from __future__ import annotations

from torch import Tensor

from kernels import with_fla
from kernels.delta_rule.chunk import delta_rule_chunk
from kernels.dispatch import is_fast, triton_refusal


def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, *, scale: float | None = None) -> Tensor:
    """Output [B, T, H, V] of `delta_rule_naive` from a zero state."""
    path, why = fast_path(q, k, v, beta)
    if not is_fast("delta_rule", fast=path, plain="chunk", refusal=why, like=v):
        return delta_rule_chunk(q, k, v, beta, scale=scale)
    if path == "fla":
        return with_fla.delta_rule_fla(q, k, v, beta, scale=scale)
    from kernels.delta_rule.triton import delta_rule_triton

    return delta_rule_triton(q, k, v, beta, scale=scale)


def fast_path(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor | None = None) -> tuple[str, str]:
    """The fast path for these inputs, and why it can't be taken, in one line, empty where it can."""
    given = (q, k, v, beta) if log_g is None else (q, k, v, beta, log_g)
    path = "fla" if q.shape[-1] == v.shape[-1] == with_fla.HEAD_SIZE else "triton"
    why = triton_refusal(*given)
    if why:
        return path, why
    if path == "fla":
        return path, with_fla.refusal(v)
    # the module needs triton
    from kernels.delta_rule.triton import unsupported

    return path, unsupported(q, k, v, beta, log_g)

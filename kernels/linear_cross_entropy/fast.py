"""Cross-entropy of a linear layer's logits without holding them: Triton on a GPU, else over chunks of tokens."""

from __future__ import annotations

from torch import Tensor

from kernels.dispatch import is_fast, triton_refusal
from kernels.linear_cross_entropy.chunk import linear_cross_entropy_chunk


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, *, count: Tensor | None = None) -> Tensor:
    """As `linear_cross_entropy_naive`."""
    why = triton_refusal(x, weight, targets)
    if not why:
        # the module needs triton
        from kernels.linear_cross_entropy.triton import linear_cross_entropy_triton, refusal

        why = refusal(x, weight, targets)
    if is_fast("linear_cross_entropy", fast="triton", plain="chunk", refusal=why, like=x):
        return linear_cross_entropy_triton(x, weight, targets, count=count)
    return linear_cross_entropy_chunk(x, weight, targets, count=count)

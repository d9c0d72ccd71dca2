"""Cross-entropy of a linear layer's logits, all of them held at once."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kernels.common import state_dtype

IGNORED = -100  # target of a token that is not counted


def linear_cross_entropy_naive(x: Tensor, weight: Tensor, targets: Tensor, *, count: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood of the targets, in nats; the definition for every fast version.

    logits = x weight^T,   loss = sum_n (log sum_v exp(logits[n, v]) - logits[n, targets[n]]) / count

    Args:
        x: hidden states [N, D].
        weight: rows of the head, or the embedding it is tied to [V, D].
        targets: int64 [N], in [0, V), or IGNORED: such a token adds nothing and gets no gradient.
        count: what the sum is divided by, the number of counted tokens if None; a micro-batch is given that of its
            whole batch.

    Returns:
        A scalar in the dtype of the sums: float32, or float64 for float64. Where no target is counted it is 0 and so
        are the gradients (torch's F.cross_entropy gives NaN).
    """
    dtype = state_dtype(x)
    logits = x.to(dtype) @ weight.to(dtype).T
    total = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    return total / counted(targets, count)


def counted(targets: Tensor, count: Tensor | None) -> Tensor:
    """What the sum of losses is divided by; at least 1."""
    return ((targets != IGNORED).sum() if count is None else count).clamp(min=1)

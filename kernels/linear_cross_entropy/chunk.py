"""Cross-entropy of a linear layer's logits over chunks of tokens: at most one chunk's logits are held."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common import state_dtype
from kernels.linear_cross_entropy.naive import IGNORED, counted

TOKENS = 1024


def linear_cross_entropy_chunk(
    x: Tensor, weight: Tensor, targets: Tensor, *, count: Tensor | None = None, chunk: int = TOKENS
) -> Tensor:
    """As `linear_cross_entropy_naive`; `chunk` is the number of tokens whose logits are held.

    The gradients are computed with the loss, while the logits of a chunk are there, so nothing is computed twice.
    Products are in the dtype of the inputs, everything else and the sum of the head's gradient in float32 at least.
    Source: Liger Kernel, arXiv 2410.10989, section 3.2 (FusedLinearCrossEntropy).
    """
    loss: Tensor = _Chunked.apply(x, weight, targets, counted(targets, count), chunk)  # type: ignore[no-untyped-call]
    return loss


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, count: Tensor, chunk: int) -> Tensor:
        dtype = state_dtype(x)
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), dtype=dtype, device=x.device)
        grad_x = torch.empty_like(x) if needs_x else None
        grad_weight = torch.zeros_like(weight, dtype=dtype) if needs_weight else None
        for begin in range(0, x.shape[0], chunk):
            rows = slice(begin, begin + chunk)
            logits = (x[rows] @ weight.T).to(dtype)
            is_counted = (targets[rows] != IGNORED).unsqueeze(1)
            asked = targets[rows].unsqueeze(1).where(is_counted, 0)
            log_sum = logits.logsumexp(1, keepdim=True)
            total += (log_sum - logits.gather(1, asked)).where(is_counted, 0).sum()
            if grad_x is None and grad_weight is None:
                continue
            change = logits.sub_(log_sum).exp_()
            change.scatter_add_(1, asked, torch.full_like(log_sum, -1.0))
            change = change.where(is_counted, 0).div_(count).to(x.dtype)
            if grad_x is not None:
                grad_x[rows] = change @ weight
            if grad_weight is not None:
                grad_weight += change.T @ x[rows]
        ctx.save_for_backward(grad_x, None if grad_weight is None else grad_weight.to(weight.dtype))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight = (None if saved is None else (saved * grad).to(saved.dtype) for saved in ctx.saved_tensors)
        return grad_x, grad_weight, None, None, None

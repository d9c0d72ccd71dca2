"""Cross-entropy of a linear layer's logits for small width: logits live in tiles of registers, none reach memory.

N tokens, D width, V vocabulary. Loss and gradients take 8*N*V*D operations: 2 for the logits in the forward, 2 for the
same logits in the backward, 2 for each of the two gradients. The floor counts 6, so both passes take at least 1.33 of
it, the forward alone 1. Bytes: x, the head and their gradients once, and the gradients of the logits written once and
read twice in the dtype of x, chunk by chunk: a program cannot hold the sums of both gradients, and adding them up in
memory atomically would not repeat.

Source: Cut Cross-Entropy, arXiv 2411.09009, algorithms 2 (forward) and 3 (logits again in the backward).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.dispatch import UnsupportedError
from kernels.linear_cross_entropy.naive import IGNORED, counted

DTYPES = (torch.float32, torch.bfloat16)
WIDTHS = range(16, 1025, 16)
# gradients of logits that are held at once
SCRATCH_BYTES = 1 << 30
# rows of the scratch begin at multiples of 128 bytes whatever V is
ALIGNED = 64
LN2 = 0.6931471805599453


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Sizes of what a program works on: `tokens` x `vocab` logits, from products of `width` columns at a time.

    Where `width` is D or more, a program loads its rows of x once and keeps them. `part`, a multiple of `vocab`, is how
    many words a program goes through.
    """

    tokens: int
    vocab: int
    width: int
    part: int = 8192
    warps: int = 8
    stages: int = 2


def tiles_for(x: Tensor) -> Tiles:
    """Chosen by shared memory (227 KB of an H200 hold 64 KB of x and two tiles of the head) and not measured."""
    if x.dtype == torch.float32:
        return Tiles(tokens=64, vocab=64, width=32)
    if x.shape[1] <= 256:
        return Tiles(tokens=128, vocab=128, width=max(16, triton.next_power_of_2(x.shape[1])))
    return Tiles(tokens=128, vocab=128, width=64, stages=3)


def refusal(x: Tensor, weight: Tensor, targets: Tensor) -> str:
    """Why the kernel does not support these inputs, in one line; empty where it does."""
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1] or targets.shape != x.shape[:1]:
        shapes = ", ".join(str(list(one.shape)) for one in (x, weight, targets))
        return f"x, weight and targets of shapes {shapes}, the Triton kernel supports [N, D], [V, D] and [N]"
    if x.dtype not in DTYPES or weight.dtype != x.dtype:
        return f"x {x.dtype} and weight {weight.dtype}, the Triton kernel supports float32 or bfloat16 for both"
    if x.shape[1] not in WIDTHS:
        return f"width {x.shape[1]}, the Triton kernel supports multiples of 16 up to {WIDTHS[-1]}"
    return "" if x.shape[0] else "no tokens, the Triton kernel supports at least one"


def linear_cross_entropy_triton(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    count: Tensor | None = None,
    tiles: Tiles | None = None,
    scratch_bytes: int = SCRATCH_BYTES,
) -> Tensor:
    """As `linear_cross_entropy_naive`, in float32; the same inputs give the same bits.

    A target outside [0, V) that is not IGNORED makes the loss NaN. `tiles` and `scratch_bytes` change time and memory.

    Raises:
        UnsupportedError: see `refusal`.
    """
    if why := refusal(x, weight, targets):
        raise UnsupportedError(why)
    rest = (counted(targets, count), tiles or tiles_for(x), scratch_bytes)
    loss: Tensor = _Fused.apply(x.contiguous(), weight.contiguous(), targets.contiguous(), *rest)
    return loss


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, count: Tensor, tiles: Tiles, scratch_bytes: int
    ) -> Tensor:
        tokens, vocab = x.shape[0], weight.shape[0]
        parts = triton.cdiv(vocab, tiles.part)
        sums = torch.empty(parts, tokens, dtype=torch.float32, device=x.device)
        asked = torch.empty(tokens, dtype=torch.float32, device=x.device)
        grid = (triton.cdiv(tokens, tiles.tokens), parts)
        with torch.cuda.device_of(x):
            _log_sums[grid](x, weight, targets, sums, asked, tokens, vocab, **_constants(x, tiles))
        log_sum = torch.logsumexp(sums * LN2, dim=0)
        ctx.save_for_backward(x, weight, targets, log_sum, count)
        ctx.tiles, ctx.scratch_bytes = tiles, scratch_bytes
        return (log_sum - asked).where(targets != IGNORED, 0).sum() / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, targets, log_sum, count = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        tiles: Tiles = ctx.tiles
        vocab = weight.shape[0]
        stride = triton.cdiv(vocab, ALIGNED) * ALIGNED
        chunk = max(1, ctx.scratch_bytes // (stride * x.element_size()) // tiles.tokens) * tiles.tokens
        scratch = torch.empty(min(chunk, x.shape[0]), stride, dtype=x.dtype, device=x.device)
        scale = (grad / count).float()
        grad_x = torch.empty_like(x) if needs_x else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        for begin in range(0, x.shape[0], chunk):
            rows = slice(begin, begin + chunk)
            given = x[rows]
            grid = (triton.cdiv(given.shape[0], tiles.tokens), triton.cdiv(vocab, tiles.part))
            sizes = (given.shape[0], vocab, stride)
            with torch.cuda.device_of(x):
                _changes[grid](
                    given, weight, targets[rows], log_sum[rows], scale, scratch, *sizes, **_constants(x, tiles)
                )
            change = scratch[: given.shape[0], :vocab]
            if grad_x is not None:
                torch.mm(change, weight, out=grad_x[rows])
            if grad_weight is not None:
                grad_weight += change.T @ given
        return grad_x, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None, None


def _constants(x: Tensor, tiles: Tiles) -> dict[str, Any]:
    return {
        "D": x.shape[1],
        "TOKENS": tiles.tokens,
        "VOCAB": tiles.vocab,
        "WIDTH": tiles.width,
        "PART": tiles.part,
        "NONE": IGNORED,
        # not tf32, whose products are a thousand times coarser
        "PRECISION": "ieee",
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


@triton.jit
def _tile(matrix, rows, count, begin, D: tl.constexpr, WIDTH: tl.constexpr):
    """Columns begin to begin + WIDTH of these rows of a matrix [count, D]; zero beyond its edges."""
    columns = begin + tl.arange(0, WIDTH)
    inside = (rows[:, None] < count) & (columns[None, :] < D)
    return tl.load(matrix + rows[:, None].to(tl.int64) * D + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _logits(
    x,
    kept,
    weight,
    rows,
    words,
    N,
    V,
    D: tl.constexpr,
    TOKENS: tl.constexpr,
    VOCAB: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Tile of logits [TOKENS, VOCAB] in units of ln 2, float32, -inf for words beyond the vocabulary."""
    if WIDTH >= D:
        logits = tl.dot(kept, tl.trans(_tile(weight, words, V, 0, D, WIDTH)), input_precision=PRECISION)
    else:
        logits = tl.zeros([TOKENS, VOCAB], dtype=tl.float32)
        for begin in range(0, D, WIDTH):
            head = tl.trans(_tile(weight, words, V, begin, D, WIDTH))
            logits = tl.dot(_tile(x, rows, N, begin, D, WIDTH), head, logits, input_precision=PRECISION)
    return tl.where(words[None, :] < V, logits * 1.4426950408889634, float("-inf"))


@triton.jit
def _log_sums(
    x,
    weight,
    targets,
    sums,
    asked,
    N,
    V,
    D: tl.constexpr,
    TOKENS: tl.constexpr,
    VOCAB: tl.constexpr,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,
    NONE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """log2 of the sum of exp(logits) over one part of the vocabulary: sums [parts, N]; asked [N] the target's logit.

    The largest logit so far is taken out of the sum before exp, so nothing overflows.
    """
    rows = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    part = tl.program_id(1)
    kept = _tile(x, rows, N, 0, D, WIDTH)
    most = tl.full([TOKENS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([TOKENS], dtype=tl.float32)
    for begin in range(part * PART, tl.minimum(part * PART + PART, V), VOCAB):
        words = begin + tl.arange(0, VOCAB)
        logits = _logits(x, kept, weight, rows, words, N, V, D, TOKENS, VOCAB, WIDTH, PRECISION)
        higher = tl.maximum(most, tl.max(logits, 1))
        total = total * tl.exp2(most - higher) + tl.sum(tl.exp2(logits - higher[:, None]), 1)
        most = higher
    tl.store(sums + part * N + rows, most + tl.log2(total), mask=rows < N)
    if part == 0:
        target = tl.load(targets + rows, mask=rows < N, other=NONE)
        is_word = (target >= 0) & (target < V)
        logit = tl.zeros([TOKENS], dtype=tl.float32)
        for begin in range(0, D, WIDTH):
            columns = begin + tl.arange(0, WIDTH)
            inside = is_word[:, None] & (columns[None, :] < D)
            head = tl.load(weight + target[:, None] * D + columns[None, :], mask=inside, other=0.0)
            logit += tl.sum(_tile(x, rows, N, begin, D, WIDTH).to(tl.float32) * head.to(tl.float32), 1)
        tl.store(asked + rows, tl.where(is_word, logit, float("nan")), mask=rows < N)


@triton.jit
def _changes(
    x,
    weight,
    targets,
    log_sum,
    scale,
    scratch,
    N,
    V,
    stride,
    D: tl.constexpr,
    TOKENS: tl.constexpr,
    VOCAB: tl.constexpr,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,
    NONE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of the logits, scale * (softmax - [word is the target]), into scratch [N, stride]."""
    rows = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    part = tl.program_id(1)
    kept = _tile(x, rows, N, 0, D, WIDTH)
    target = tl.load(targets + rows, mask=rows < N, other=NONE)
    log2_sum = tl.load(log_sum + rows, mask=rows < N, other=0.0) * 1.4426950408889634
    factor = tl.where(target == NONE, 0.0, tl.load(scale))
    for begin in range(part * PART, tl.minimum(part * PART + PART, V), VOCAB):
        words = begin + tl.arange(0, VOCAB)
        logits = _logits(x, kept, weight, rows, words, N, V, D, TOKENS, VOCAB, WIDTH, PRECISION)
        share = tl.exp2(logits - log2_sum[:, None])
        change = factor[:, None] * (share - tl.where(words[None, :] == target[:, None], 1.0, 0.0))
        # also the columns beyond V, as zeros, so that whole vectors are stored whatever V is
        inside = (rows[:, None] < N) & (words[None, :] < stride)
        places = scratch + rows[:, None].to(tl.int64) * stride + words[None, :]
        tl.store(places, change.to(scratch.dtype.element_ty), mask=inside)

"""What the kernels of `fir_mix` share: a causal filter on a tile of tokens, and the gradients of a bank of filters.

A program owns 4 R consecutive tokens of one head, as four tiles [R, C] of rows and channels: tile k holds the tokens
t0 + 4 r + k. Every value that is loaded then meets four taps in four accumulators, so a filter of L taps costs L
multiply-adds and L / 4 loads and conversions per output. A banded Toeplitz product on the tensor cores would have more
than four times the arithmetic rate, but needs one matrix per channel and 16 batch rows side by side: not built before
this has been measured.

Sums are in float32. No atomics: filter gradients are summed over programs in a fixed order, so a rerun is bit-equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 32  # channels of a tile in the gradients of the bank, where channels do not meet
ELEMENTS_OF_WARP = 256  # of a tile over a whole head: 8 for each thread
ROWS = 32  # rows of a tile: with 32 columns 8 elements for each of the 128 threads
# of a thread: three programs of 128 threads on one multiprocessor, and bfloat16 does not spill
REGISTERS = 168
GRADIENT_TOKENS = 512  # tokens of one batch row that a program sums for the gradient of a filter


class Tile(NamedTuple):
    """Where the rows of a program lie: tokens of one head, counted from the program's first."""

    low: Any  # rows in [low, high) exist, the others read as zero
    high: Any
    columns: Any  # channels
    live: Any  # which of them exist
    origin: Any  # offset of row 0 in a tensor [B, T, H, V]
    row: Any  # from one row to the next there
    gate_origin: Any = 0  # the same of a tensor [B, T, H, P]
    gate_row: Any = 0


@triton.jit
def locate(T, H, tokens):
    """Head of this program, first token of its block, and the index of that token and head among [B, T, H]."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(T, tokens)
    start = pid // H % blocks * tokens
    return pid % H, start, ((pid // H // blocks).to(tl.int64) * T + start) * H + pid % H


@triton.jit
def load_rows(x, at, tile):
    """Rows `at` of x as float32: [R, C]."""
    return _load(x + tile.origin, at[:, None] * tile.row + tile.columns[None, :], x, at, at, tile, False)


@triton.jit
def store_rows(out, value, at, tile):
    offsets = at[:, None] * tile.row + tile.columns[None, :]
    tl.store(out + tile.origin + offsets, value, mask=(at < tile.high)[:, None] & tile.live[None, :])


@triton.jit
def load_gates(weights, at, tile):
    """One weight for each of the rows `at`: [R, 1]."""
    gates = tl.load(weights + tile.gate_origin + at * tile.gate_row, mask=_exists(at, tile), other=0.0)
    return gates.to(tl.float32)[:, None]


@triton.jit
def store_gates(out, value, at, tile):
    tl.store(out + tile.gate_origin + at * tile.gate_row, value, mask=at < tile.high)


@triton.jit
def load_weighted(x, weights, at, tile, WEIGHTED: tl.constexpr):
    """Rows `at` of x, each times its weight if WEIGHTED."""
    offsets = at[:, None] * tile.row + tile.columns[None, :]
    return _load(x + tile.origin, offsets, weights + tile.gate_origin, at * tile.gate_row, at, tile, WEIGHTED)


@triton.jit
def _load(x, offsets, weights, gate_offsets, at, tile, WEIGHTED: tl.constexpr):
    exists = _exists(at, tile)
    value = tl.load(x + offsets, mask=exists[:, None] & tile.live[None, :], other=0.0).to(tl.float32)
    if WEIGHTED:
        value *= tl.load(weights + gate_offsets, mask=exists, other=0.0).to(tl.float32)[:, None]
    return value


@triton.jit
def _exists(at, tile):
    # low <= at < high in one comparison
    return (at - tile.low).to(tl.uint32) < (tile.high - tile.low).to(tl.uint32)


@triton.jit
def _load_tap(taps, tile):
    return tl.load(taps + tile.columns, mask=tile.live, other=0.0)[None, :]


@triton.jit
def _accumulate(ys, value, taps):
    return ys[0] + value * taps[0], ys[1] + value * taps[1], ys[2] + value * taps[2], ys[3] + value * taps[3]


@triton.jit
def _accumulate_if_met(y, value, tap, index: tl.constexpr, L: tl.constexpr):
    # not even times 0, or a NaN of the future would come through
    if index >= 0 and index < L:
        y += value * tap
    return y


@triton.jit
def _edge(ys, last, value, taps, step, tile, s: tl.constexpr, L: tl.constexpr):
    """One step at an end of the filter, where only some of the four outputs meet the value."""
    newest = last[0]
    if s < L:
        newest = _load_tap(taps + s * step, tile)
    ys = (
        _accumulate_if_met(ys[0], value, newest, s, L),
        _accumulate_if_met(ys[1], value, last[0], s - 1, L),
        _accumulate_if_met(ys[2], value, last[1], s - 2, L),
        _accumulate_if_met(ys[3], value, last[2], s - 3, L),
    )
    return ys, (newest, last[0], last[1], last[2])


@triton.jit
def correlate(x, weights, taps, step, first, tile, L: tl.constexpr, WEIGHTED: tl.constexpr):
    """y_k[r] = sum_{l < L} taps[l] x[first_r + k + l] for k = 0..3, each [R, C]; x times its weight if WEIGHTED.

    step: from one tap to the next in memory, negative for a reversed filter.
    """
    zero = tl.zeros([first.shape[0], tile.columns.shape[0]], tl.float32)
    none = tl.zeros([1, tile.columns.shape[0]], tl.float32)
    ys, last = (zero, zero, zero, zero), (none, none, none, none)
    for s in tl.static_range(3):
        value = load_weighted(x, weights, first + s, tile, WEIGHTED)
        ys, last = _edge(ys, last, value, taps, step, tile, s, L)
    # constant offsets on pointers that advance: half the address arithmetic of pointers that are computed anew
    row, gate = tile.row, tile.gate_row
    inner_x = x + tile.origin + 3 * row
    inner_weights = weights + tile.gate_origin + 3 * gate
    inner_taps = taps + 3 * step
    offsets = first[:, None] * row + tile.columns[None, :]
    for block in range(3, L - 3, 4):
        for j in tl.static_range(4):
            at = first + block + j
            value = _load(inner_x + j * row, offsets, inner_weights + j * gate, first * gate, at, tile, WEIGHTED)
            last = (_load_tap(inner_taps + j * step, tile), last[0], last[1], last[2])
            ys = _accumulate(ys, value, last)
        inner_x += 4 * row
        inner_weights += 4 * gate
        inner_taps += 4 * step
    # from where the loop above ended, which is 3 for L < 7
    for s in tl.static_range((L + 1) // 4 * 4 - 1, L + 3):
        if s >= 3:
            value = load_weighted(x, weights, first + s, tile, WEIGHTED)
            ys, last = _edge(ys, last, value, taps, step, tile, s, L)
    return ys


@triton.jit
def _input_gradient_kernel(
    grad, weights, bank, out, path_stride, T,
    H: tl.constexpr, TAPS: tl.constexpr, P: tl.constexpr, WEIGHTED: tl.constexpr,
    V: tl.constexpr, C: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """out_t = sum_f sum_l filter_fl grad_{f, t+L-1-l} + the gradient of the identity path at t."""
    parts = tl.cdiv(V, C)
    part, start, place = locate(T, H * parts, 4 * R)
    place = place // parts
    columns = part % parts * C + tl.arange(0, C)
    tile = Tile(-start, T - start, columns, columns < V, place * V, H * V, place * P, H * P)
    at = 4 * tl.arange(0, R)
    zero = tl.zeros([R, C], tl.float32)
    sums = (zero, zero, zero, zero)
    taps = bank + part // parts * V
    for f in tl.static_range(len(TAPS)):
        ys = correlate(grad, weights + f, taps + (TAPS[f] - 1) * H * V, -H * V, at, tile, TAPS[f], WEIGHTED)
        sums = (sums[0] + ys[0], sums[1] + ys[1], sums[2] + ys[2], sums[3] + ys[3])
        grad += path_stride
        taps += TAPS[f] * H * V
    for k in tl.static_range(4):
        own = load_weighted(grad, weights + P - 1, at + k, tile, WEIGHTED)
        store_rows(out, sums[k] + own, at + k, tile)


@triton.jit
def _filter_gradient_kernel(
    grad, weights, v, out, segment, T,
    H: tl.constexpr, L: tl.constexpr, P: tl.constexpr, WEIGHTED: tl.constexpr,
    V: tl.constexpr, C: tl.constexpr, R: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """out[block, head, l] = sum over the tokens t of one block of grad_t v_{t-L+1+l}.

    Row r of tile k is tap 4 r + k, and G groups of R rows share the tokens of the block, `segment` each: no sum across
    threads is needed before the end.
    """
    parts = tl.cdiv(V, C)
    part, start, place = locate(T, H * parts, G * segment)
    place = place // parts
    columns = part % parts * C + tl.arange(0, C)
    live = columns < V
    row: tl.constexpr = H * V
    gate: tl.constexpr = H * P
    index = tl.arange(0, G * R)
    begin = index // R * segment
    first = begin + 4 * (index % R) - (L - 1)
    value_tile = Tile(-start, T - start, columns, live, place * V, row)
    grad_tile = Tile(0, tl.minimum(begin + segment, T - start), columns, live, place * V, row, place * P, gate)
    grad += place * V
    weights += place * P
    v += place * V
    offsets = first[:, None] * row + columns[None, :]
    grad_offsets = begin[:, None] * row + columns[None, :]
    zero = tl.zeros([G * R, C], tl.float32)
    ys, last = (zero, zero, zero, zero), (zero, zero, zero, zero)
    for step in range(0, segment + 4, 4):
        for j in tl.static_range(4):
            at = begin + step + j
            value = _load(v + j * row, offsets, v, first, first + step + j, value_tile, False)
            newest = _load(grad + j * row, grad_offsets, weights + j * gate, begin * gate, at, grad_tile, WEIGHTED)
            last = (newest, last[0], last[1], last[2])
            ys = _accumulate(ys, value, last)
        v += 4 * row
        grad += 4 * row
        weights += 4 * gate
    block = (tl.program_id(0) // (H * parts)).to(tl.int64)
    tap_tile = Tile(0, L, columns, live, (block * H + part // parts) * L * V, V)
    for k in tl.static_range(4):
        store_rows(out, tl.sum(tl.reshape(ys[k], (G, R, C)), 0), 4 * tl.arange(0, R) + k, tap_tile)


def grid_of(v: Tensor) -> tuple[int]:
    """One program for each block of tokens of one head, with the tile that `sizes_of` says."""
    batch, length, heads, width = v.shape
    return (heads * triton.cdiv(length, 4 * _rows_and_warps(width)[0]) * batch,)


def sizes_of(v: Tensor, filters: Sequence[Tensor]) -> dict[str, Any]:
    """Compile-time arguments of a kernel whose tile spans a whole head."""
    heads, width = v.shape[2:]
    rows, warps = _rows_and_warps(width)
    return {
        "H": heads,
        "TAPS": tuple(taps.shape[2] for taps in filters),
        "V": width,
        "C": triton.next_power_of_2(width),
        "R": rows,
        "num_warps": warps,
        "maxnreg": REGISTERS,
    }


def _rows_and_warps(width: int) -> tuple[int, int]:
    # with no more threads than columns Triton takes every tap through shared memory
    warps = 8 if width > 64 else 4
    return min(ROWS, ELEMENTS_OF_WARP * warps // int(triton.next_power_of_2(width))), warps


def bank_of(filters: Sequence[Tensor]) -> Tensor:
    """[sum of taps, H, V] in float32, so that the channels of one tap lie beside each other."""
    heads, width, _ = filters[0].shape
    lengths = [taps.shape[2] for taps in filters]
    bank = filters[0].new_empty(sum(lengths), heads, width, dtype=torch.float32)
    for part, taps in zip(bank.split(lengths), filters, strict=True):
        part.copy_(taps.permute(2, 0, 1))
    return bank


def input_gradient(grad: Tensor, weights: Tensor | None, bank: Tensor, filters: Sequence[Tensor], v: Tensor) -> Tensor:
    """Gradient [B, T, H, V] of the values through the filters and the identity path.

    grad: of the mixture [B, T, H, V] where weights [B, T, H, P] say how every path takes part in it, else of the
    filters and the identity, one after the other [F + 1, B, T, H, V].
    """
    batch, length, heads, width = v.shape
    out = torch.empty_like(v)
    columns = min(COLUMNS, triton.next_power_of_2(width))
    with torch.cuda.device_of(v):
        _input_gradient_kernel[(heads * triton.cdiv(width, columns) * triton.cdiv(length, 4 * ROWS) * batch,)](
            grad, grad if weights is None else weights, bank, out, v.numel() if weights is None else 0, length,
            H=heads, TAPS=tuple(taps.shape[2] for taps in filters), P=1 if weights is None else weights.shape[3],
            WEIGHTED=weights is not None, V=width, C=columns, R=ROWS, maxnreg=REGISTERS,
        )  # fmt: skip
    return out


def filter_gradient(grad: Tensor, weights: Tensor | None, v: Tensor, number: int, taps: Tensor) -> Tensor:
    """Gradient [H, V, L] of filter `number`, which is `taps`; grad and weights as `input_gradient` takes them."""
    batch, length, heads, width = v.shape
    rows = triton.next_power_of_2(triton.cdiv(taps.shape[2], 4))
    groups = max(1, ROWS // rows)
    segment = 4 * triton.cdiv(min(length, GRADIENT_TOKENS), 4 * groups)
    columns = min(COLUMNS, triton.next_power_of_2(width))
    blocks = batch * triton.cdiv(length, groups * segment)
    sums = v.new_empty(blocks, heads, taps.shape[2], width, dtype=torch.float32)
    with torch.cuda.device_of(v):
        _filter_gradient_kernel[(heads * triton.cdiv(width, columns) * blocks,)](
            grad if weights is not None else grad[number], grad if weights is None else weights[..., number:], v, sums,
            segment, length,
            H=heads, L=taps.shape[2], P=1 if weights is None else weights.shape[3], WEIGHTED=weights is not None,
            V=width, C=columns, R=rows, G=groups,
        )  # fmt: skip
    return sums.sum(0).transpose(1, 2).to(taps.dtype)

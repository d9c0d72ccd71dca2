"""Rules of operators that join elements: reductions, norms, softmax, scans, products and solves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arch_search.admission.certificate.products import convolution_codes, product_codes, solve_codes
from arch_search.admission.certificate.rules import (
    Arguments,
    Context,
    Mark,
    align,
    common_shape,
    dims_of,
    is_minus_infinity,
    without_masked,
)
from arch_search.admission.certificate.shadow import CONSTANT


def reduced(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """sum, mean, amax, ...: the latest along the reduced dimensions. Masked elements never win a maximum."""
    tensor = given["self"]
    codes = context.shadow.read(tensor)
    if any(word in func._schema.name for word in ("amax", "max", "logsumexp")):
        codes = without_masked(context, codes, tensor, given.get("dim"))
    dims = dims_of(given.get("dim"), tensor.dim())
    keep = bool(given.get("keepdim", False))
    found = codes.amax(dim=[dim + 1 for dim in dims], keepdim=keep) if dims else codes
    if given.get("dim") is None and not keep:
        found = found.reshape(2)
    return [Mark(found)] * len(func._schema.returns)


def normalised(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """layer_norm and its kin: everything in the normalised dimensions; then the mean and the scale of each group."""
    tensor = given["input"]
    codes = context.shadow.read(tensor)
    count = len(given["normalized_shape"])
    dims = list(range(codes.dim() - count, codes.dim()))
    group = codes.amax(dim=dims, keepdim=True)
    weights = [value for name in ("weight", "bias") if isinstance(value := given.get(name), Tensor)]
    out = group.expand_as(codes)
    for weight in weights:
        out = torch.maximum(out, align(context.shadow.read(weight), tensor.shape))
    return [Mark(out), *[Mark(group)] * (len(func._schema.returns) - 1)]


def group_normalised(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """native_group_norm [N, C, *]: everything of one group of channels in one batch entry."""
    codes = context.shadow.read(given["input"])
    N, C, groups = given["N"], given["C"], given["group"]
    group = codes.reshape(2, N, groups, -1).amax(dim=-1, keepdim=True)
    out = group.expand(2, N, groups, codes.numel() // (2 * N * groups)).reshape(codes.shape)
    for name in ("weight", "bias"):
        if isinstance(given.get(name), Tensor):
            per_channel = context.shadow.read(given[name]).reshape(2, 1, C, *[1] * (codes.dim() - 3))
            out = torch.maximum(out, per_channel)
    return [Mark(out), Mark(group.squeeze(-1)), Mark(group.squeeze(-1))]


def batch_normalised(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """With stored statistics, channel by channel; in training over batch and length, which joins everything."""
    if given.get("training", given.get("train", True)):
        raise NotImplementedError
    codes = context.shadow.read(given["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(given.get(name), Tensor):
            per_channel = context.shadow.read(given[name]).reshape(2, 1, -1, *[1] * (codes.dim() - 3))
            codes = torch.maximum(codes, per_channel)
    empty = Mark(torch.zeros((2, 0), dtype=torch.int16))
    return [Mark(codes), empty, empty]


def softmax(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """Each element of a row depends on the row; masked ones are zero and count for nothing."""
    tensor, dim = given["self"], given["dim"] % max(1, given["self"].dim())
    codes = without_masked(context, context.shadow.read(tensor), tensor, dim)
    row = codes.amax(dim=dim + 1, keepdim=True).expand_as(codes)
    masked = context.shadow.masked(tensor)
    if not bool(masked.any()) or "log" in func._schema.name:
        return [Mark(row)]
    gone = masked & ~masked.all(dim=dim, keepdim=True) & (torch.softmax(tensor.detach().float(), dim) == 0)
    if bool((gone & ~is_minus_infinity(context, tensor)).any()):
        context.assumed.add("a score with a large negative number added underflows")
    return [Mark(row.masked_fill(gone, CONSTANT))]


def running(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """cumsum and its kin: the latest up to each position."""
    codes = context.shadow.read(given["self"])
    found = codes.cummax(dim=given["dim"] % max(1, given["self"].dim()) + 1).values if codes.dim() > 1 else codes
    return [Mark(found)] * len(func._schema.returns)


def sorted_along(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """sort, topk: every place along the dimension depends on all of it."""
    tensor = given["self"]
    codes = context.shadow.read(tensor)
    dim = given.get("dim", -1) % max(1, tensor.dim()) + 1
    length = given.get("k", tensor.shape[dim - 1] if tensor.dim() else 1)
    row = codes.amax(dim=dim, keepdim=True)
    shape = list(codes.shape)
    shape[dim] = length
    return [Mark(row.expand(shape))] * len(func._schema.returns)


_FACTORS = (
    ("mat1", "mat2"),
    ("batch1", "batch2"),
    ("mat", "vec"),
    ("self", "mat2"),
    ("self", "vec"),
    ("self", "tensor"),
)


def matrix_product(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """mm, bmm, mv, addmm, baddbmm: out[i, j] depends on the k where neither factor is known to be zero."""
    first, second = next(pair for pair in _FACTORS if pair[0] in given and pair[1] in given)
    a, b = given[first], given[second]
    added = given["self"] if first != "self" else None
    shadow = context.shadow
    right, none_right = shadow.read(b), shadow.zeros(b)
    if b.dim() == 1:
        right, none_right = right.unsqueeze(-1), none_right.unsqueeze(-1)
    left, none_left = shadow.read(a), shadow.zeros(a)
    if a.dim() == 1:
        left, none_left = left.unsqueeze(1), none_left.unsqueeze(0)
    codes = product_codes(left, right, none_left, none_right)
    if b.dim() == 1:
        codes = codes.squeeze(-1)
    if a.dim() == 1:
        codes = codes.squeeze(1)
    if added is not None:
        codes = torch.maximum(codes, align(shadow.read(added), codes.shape[1:]))
    return [Mark(codes)]


def convolution(context: Context, func: Any, given: Arguments) -> list[Mark]:
    found = convolution_codes(context.shadow, given)
    if found is None:
        raise NotImplementedError
    return [Mark(found)]


def triangular_solve(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """Substitution row by row; the other triangle is never read."""
    a, b = given["self"], given["B"]
    if not given.get("left", True):
        raise NotImplementedError
    shadow = context.shadow
    shape = common_shape(a.shape[:-2], b.shape[:-2])
    codes = solve_codes(
        align(shadow.read(a), (*shape, *a.shape[-2:])),
        align(shadow.read(b), (*shape, *b.shape[-2:])),
        shadow.zeros(a).expand(*shape, *a.shape[-2:]),
        shadow.zeros(b).expand(*shape, *b.shape[-2:]),
        upper=given["upper"],
        unit=given.get("unitriangular", False),
    )
    return [Mark(codes)]

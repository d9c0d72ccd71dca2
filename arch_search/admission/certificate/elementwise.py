"""Rules of operators that work element by element."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arch_search.admission.certificate.rules import Arguments, Context, Mark, align, is_minus_infinity, joined
from arch_search.admission.certificate.shadow import CONSTANT, FREE, STILL_NEGATIVE


def pointwise(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """Element by element, with broadcasting: the latest of all operands."""
    codes = joined(context, [value for value in given.values() if isinstance(value, Tensor)])
    return [Mark(codes)]


def product(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """a * b and a / b: zero where a factor is known to be zero; a spectrum times a spectrum is a convolution."""
    a, b = given["self"], given["other"]
    if not isinstance(b, Tensor):
        masked = context.shadow.masked(a) & (a.detach() * b <= STILL_NEGATIVE) if _positive(b) else None
        return [Mark(context.shadow.read(a), masked)]
    codes = joined(context, [a, b])
    shape = codes.shape[1:]
    none = context.shadow.zeros(a).expand(shape)
    if "mul" in func._schema.name:
        none = none | context.shadow.zeros(b).expand(shape)
    scale = context.shadow.is_constant(b) & (b > 0) if not b.is_complex() else None
    masked = None
    if scale is not None:
        still = a.detach() * b.detach() <= STILL_NEGATIVE
        masked = context.shadow.masked(a).expand(shape) & scale.expand(shape) & still
    return [Mark(codes.masked_fill(none, CONSTANT), masked)]


def _positive(number: object) -> bool:
    return isinstance(number, (int, float)) and number > 0


def total(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """a + b and a - b: minus infinity stays what it is, a large negative term makes the sum one."""
    a, b = given["self"], given["other"]
    if not isinstance(b, Tensor):
        return [Mark(context.shadow.read(a), context.shadow.masked(a))]
    codes = joined(context, [a, b])
    shape = codes.shape[1:]
    if given.get("alpha", 1) != 1:
        return [Mark(codes)]
    masked_a, masked_b = context.shadow.masked(a).expand(shape), context.shadow.masked(b).expand(shape)
    if "sub" in func._schema.name:
        return [Mark(codes.masked_fill(is_minus_infinity(context, a).expand(shape), CONSTANT), masked_a & ~masked_b)]
    endless = is_minus_infinity(context, a).expand(shape) | is_minus_infinity(context, b).expand(shape)
    return [Mark(codes.masked_fill(endless, CONSTANT), masked_a | masked_b)]


def vanishing(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """exp and sigmoid of a large negative number are zero."""
    tensor = given["self"]
    masked = context.shadow.masked(tensor)
    if func._schema.is_mutable or not bool(masked.any()):
        return [Mark(context.shadow.read(tensor))]
    gone = masked & (func(tensor.detach()) == 0)
    if bool((gone & ~context.shadow.is_constant(tensor)).any()):
        context.assumed.add("a score with a large negative number added underflows")
    return [Mark(context.shadow.read(tensor).masked_fill(gone, CONSTANT))]


def finite_test(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """isnan, isinf, isfinite: constants, under the assumption that all numbers are finite."""
    context.assumed.add("all numbers are finite")
    return [Mark(torch.zeros((2, *given["self"].shape), dtype=torch.int16))]


def choice(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """where and masked_fill: what a constant condition chooses; the same constant on both sides is one."""
    filling = "masked_fill" in func._schema.name
    condition = given["mask" if filling else "condition"]
    picked, other = (given["value"], given["self"]) if filling else (given["self"], given["other"])
    shadow = context.shadow
    picked, other = (one if isinstance(one, Tensor) else torch.tensor(one) for one in (picked, other))
    codes = joined(context, [condition, picked, other])
    shape = codes.shape[1:]
    known = shadow.is_constant(condition).expand(shape)
    chosen = condition.expand(shape)
    of_picked, of_other = align(shadow.read(picked), shape), align(shadow.read(other), shape)
    codes = torch.where(known, torch.where(chosen, of_picked, of_other), codes)
    same = shadow.is_constant(picked).expand(shape) & shadow.is_constant(other).expand(shape)
    codes = codes.masked_fill(same & (picked.expand(shape) == other.expand(shape)), CONSTANT)
    masked_picked, masked_other = shadow.masked(picked).expand(shape), shadow.masked(other).expand(shape)
    masked = torch.where(known, torch.where(chosen, masked_picked, masked_other), masked_picked & masked_other)
    return [Mark(codes, masked)]


def conjunction(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """and: False where one side is known to be False."""
    a, b = given["self"], given["other"]
    if not isinstance(b, Tensor):
        return [Mark(context.shadow.read(a))]
    codes = joined(context, [a, b])
    shape = codes.shape[1:]
    none = context.shadow.zeros(a).expand(shape) | context.shadow.zeros(b).expand(shape)
    return [Mark(codes.masked_fill(none, CONSTANT))]


def log_sigmoid(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """The result and a buffer of the same shape, or of none."""
    mark = pointwise(context, func, given)[0]
    return [mark, Mark(mark.codes.reshape(2, -1).amax(dim=1))]


def constant(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """zeros_like, new_full, fill_ with a number: nothing of the operand's values is left."""
    filled = given.get("value")
    if isinstance(filled, Tensor):
        return [Mark(context.shadow.read(filled))]
    return [Mark(torch.full((2,), CONSTANT, dtype=torch.int16))]


def random_numbers(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """normal_, rand_like, bernoulli: free of what was there, but not of the parameters of the draw."""
    drawn = [given[name] for name in ("p", "mean", "std") if isinstance(given.get(name), Tensor)]
    codes = joined(context, drawn) if drawn else torch.full((2,), CONSTANT, dtype=torch.int16)
    return [Mark(codes.clamp(min=FREE))]


def dropout(context: Context, func: Any, given: Arguments) -> list[Mark]:
    codes = context.shadow.read(given["input"])
    return [Mark(codes.clamp(min=FREE)), Mark(torch.full_like(codes, FREE))]

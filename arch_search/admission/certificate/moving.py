"""Rules of operators that move elements without changing them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from arch_search.admission.certificate.rules import (
    Arguments,
    Context,
    Mark,
    align,
    replace_tensors,
    tensors_in,
)


def moved(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """Operators that only move elements do to the codes what they do to the values; what is padded is constant."""
    codes, masks, padded = [], None, {}
    for name, value in given.items():
        padded[name] = 0.0 if name == "value" else value
    for plane in range(2):
        codes.append(func(**replace_tensors(padded, partial(_plane, context, plane))))
    if any(bool(context.shadow.masked(tensor).any()) for tensor in tensors_in(given)):
        masks = func(**replace_tensors(padded, lambda tensor: context.shadow.masked(tensor).float())) > 0
    outputs = codes[0] if isinstance(codes[0], (tuple, list)) else [codes[0]]
    others = codes[1] if isinstance(codes[1], (tuple, list)) else [codes[1]]
    return [Mark(torch.stack([a, b]).to(torch.int16), masks) for a, b in zip(outputs, others, strict=True)]


def _plane(context: Context, plane: int, tensor: Tensor) -> Tensor:
    return context.shadow.read(tensor)[plane].float()


def copied(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """copy_, _to_copy, clone: the codes of the source, broadcast to the target."""
    source: Tensor = given["src"] if "src" in given else given["self"]
    shape = given["self"].shape
    return [Mark(align(context.shadow.read(source), shape), context.shadow.masked(source).expand(shape))]


def picked(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """gather, index_select, embedding, index: known indices move codes; unknown ones may fetch from anywhere."""
    table = given["weight"] if "embedding" in func._schema.name else given["self"]
    name = "indices" if "indices" in given else "index"
    indices = tensors_in(given[name])
    known = all(bool(context.shadow.is_constant(tensor).all()) for tensor in indices)
    if known:
        codes = [
            func(**{**given, _first(given, table): context.shadow.read(table)[plane].float()}) for plane in range(2)
        ]
        masks = context.shadow.masked(table)
        masked = func(**{**given, _first(given, table): masks.float()}) > 0 if bool(masks.any()) else None
        return [Mark(torch.stack(codes).to(torch.int16), masked)]
    if "dim" in given:  # gather, index_select: anything along this dimension
        codes_of_table = context.shadow.read(table)
        dim = given["dim"] % table.dim() + 1
        reach = codes_of_table.amax(dim=dim, keepdim=True).expand_as(codes_of_table)
        fetched = torch.stack([func(**{**given, "self": reach[plane].float()}) for plane in range(2)]).to(torch.int16)
        index = context.shadow.read(indices[0])
        if "gather" in func._schema.name:
            return [Mark(torch.maximum(fetched, index))]
        line = [1] * fetched.dim()
        line[0], line[dim] = 2, -1
        return [Mark(torch.maximum(fetched, index.reshape(line)))]
    raise NotImplementedError


def _first(given: Arguments, tensor: Tensor) -> str:
    return next(name for name, value in given.items() if value is tensor)


def placed(context: Context, func: Any, given: Arguments) -> list[Mark]:
    """index_put, scatter, index_add, ...: known indices place codes; an unknown scatter stays within its line."""
    target = given["self"]
    indices = tensors_in(given.get("indices", given.get("index")))
    values = [value for name, value in given.items() if isinstance(value, Tensor) and name not in ("self", "index")]
    known = all(bool(context.shadow.is_constant(tensor).all()) for tensor in indices)
    adds = given.get("accumulate") or "add" in func._schema.name or "reduce" in given or "reduce" in func._schema.name
    plain = _functional(func)
    if not known or adds or plain is None:
        if "scatter" not in func._schema.name:
            raise NotImplementedError
        return [Mark(_scattered(context, given))]
    codes = []
    for plane in range(2):
        shadowed: Arguments = {**given, "self": context.shadow.read(target)[plane].float()}
        for name, value in given.items():
            if any(value is one for one in values):
                shadowed[name] = context.shadow.read(value)[plane].float()
        if "value" in shadowed and not isinstance(shadowed["value"], Tensor):
            shadowed["value"] = 0.0
        codes.append(plain(**shadowed))
    return [Mark(torch.stack(codes).to(torch.int16))]


def _scattered(context: Context, given: Arguments) -> Tensor:
    """Any element of a line along `dim` may take any source of that line; lines beyond the index keep what they had."""
    target, index, source = given["self"], given["index"], given.get("src")
    dim = given["dim"] % max(1, target.dim()) + 1
    moved = context.shadow.read(index)
    if isinstance(source, Tensor):
        part = source[tuple(slice(size) for size in index.shape)]
        moved = torch.maximum(moved, context.shadow.read(part))
    codes = context.shadow.read(target).clone()
    reached = codes[(slice(None), *(slice(size if axis != dim - 1 else None) for axis, size in enumerate(index.shape)))]
    if index.numel():
        reached.copy_(torch.maximum(reached, moved.amax(dim=dim, keepdim=True)))
    return codes


def _functional(func: Any) -> Any:
    """The form of an operator that returns its result instead of changing its operand."""
    name = func._schema.name
    if not name.endswith("_"):
        return func
    packet = getattr(torch.ops.aten, name.removeprefix("aten::").rstrip("_"), None)
    return getattr(packet, func._overloadname, None) if packet is not None else None

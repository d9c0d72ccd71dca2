"""What rules are made of: how the codes of an operator's outputs follow from those of its operands.

A rule is sound when an output's code is at least that of every operand element that can change the output's value in
exact arithmetic on finite numbers; the tests redraw operands to hold each rule to that. An operator without a rule
sends everything it reads everywhere (`everything`), which is sound and only costs proofs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from arch_search.admission.certificate.shadow import CONSTANT, FREE, Shadow
from arch_search.admission.certificate.spectra import Spectra

Codes = Tensor  # int16 [2, *shape]


@dataclass(frozen=True, slots=True)
class Mark:
    """What a rule says of one output."""

    codes: Codes
    masked: Tensor | None = None  # see Shadow.masked


@dataclass(slots=True)
class Context:
    """What the rules of one trace share: the shadow, the spectra, and what had to be assumed."""

    shadow: Shadow
    spectra: Spectra
    assumed: set[str] = field(default_factory=set)


Arguments = dict[str, Any]
Rule = Callable[[Context, Any, Arguments], Sequence[Mark]]


def everything(context: Context, operands: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Mark]:
    """All that was read may be anywhere."""
    worst = context.shadow.latest(operands).clamp(min=FREE)
    return [Mark(_spread(worst, out.shape)) for out in outputs]


def joined(context: Context, tensors: Sequence[Tensor]) -> Codes:
    found = [context.shadow.read(tensor) for tensor in tensors]
    shape = common_shape(*(codes.shape[1:] for codes in found))
    joined = torch.zeros((2, *shape), dtype=torch.int16)
    for codes in found:
        joined = torch.maximum(joined, align(codes, shape))
    return joined


def common_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    shape: tuple[int, ...] = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    return shape


def align(codes: Codes, shape: Sequence[int]) -> Codes:
    """Codes [2, *small] as [2, *shape]: broadcasting aligns at the end, the planes stay in front."""
    lead = len(shape) - (codes.dim() - 1)
    return codes.reshape(2, *([1] * lead), *codes.shape[1:]).expand(2, *shape)


def _spread(per_plane: Tensor, shape: Sequence[int]) -> Codes:
    return per_plane.reshape(2, *([1] * len(shape))).expand(2, *shape)


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for one in value.values() for tensor in tensors_in(one)]
    if isinstance(value, (list, tuple)):
        return [tensor for one in value for tensor in tensors_in(one)]
    return []


def replace_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: replace_tensors(one, change) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [replace_tensors(one, change) for one in value]
    return value


def is_minus_infinity(context: Context, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=torch.bool)
    return context.shadow.is_constant(tensor) & (tensor.detach() == -torch.inf)


def dims_of(dim: Any, rank: int) -> list[int]:
    if dim is None or dim == []:
        return list(range(rank))
    return [one % rank for one in (dim if isinstance(dim, (list, tuple)) else [dim])] if rank else []


def without_masked(context: Context, codes: Codes, tensor: Tensor, dim: Any) -> Codes:
    """A masked element counts for nothing where at least one other stands beside it."""
    masked = context.shadow.masked(tensor)
    if not bool(masked.any()):
        return codes
    dims = dims_of(dim, tensor.dim())
    lonely = masked
    for one in dims:
        lonely = lonely.all(dim=one, keepdim=True)
    return codes.masked_fill(masked & ~lonely, CONSTANT)

"""Which implementation of an operator runs, and why: the fast one where it supports the input, else plain torch.

A module `kernels/X/triton.py` refuses what it does not support by `UnsupportedError`, one line that says what it
supports; the dispatcher of the operator asks first, runs the plain path instead and keeps that line.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor


class UnsupportedError(ValueError):
    """A kernel was called with a shape, dtype or device that it does not support."""


class FallbackWarning(UserWarning):
    """Tensors on a GPU take a plain path because the kernel does not support them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What one call of an operator ran on."""

    operator: str  # name of its folder
    path: str  # file of the implementation: triton, chunk, fast, or fla
    reason: str  # why not the fastest one; empty where it is


_choices: ContextVar[list[Choice] | None] = ContextVar("_choices", default=None)


@contextmanager
def recorded_choices() -> Iterator[list[Choice]]:
    """What dispatchers choose inside the block, each choice once, in the order of first use."""
    found: list[Choice] = []
    token = _choices.set(found)
    try:
        yield found
    finally:
        _choices.reset(token)


def remember(choice: Choice) -> None:
    """Add a choice to those of the innermost `recorded_choices`."""
    found = _choices.get()
    if found is not None and choice not in found:
        found.append(choice)


def is_fast(operator: str, *, fast: str, plain: str, refusal: str, like: Tensor) -> bool:
    """Whether the fast path runs, which it does where `refusal` is empty; records the choice.

    On a GPU, where the fast path is what one expects, the refusal is also given as a warning.
    """
    remember(Choice(operator=operator, path=plain if refusal else fast, reason=refusal))
    if refusal and like.is_cuda:
        warnings.warn(f"{operator}: {refusal}; {plain} is used instead", FallbackWarning, stacklevel=3)
    return not refusal


def triton_refusal(*tensors: Tensor) -> str:
    """Why Triton cannot run on these tensors where they are, in one line; empty where it can.

    On a CPU only Triton's interpreter runs (TRITON_INTERPRET=1), a hundred times slower than torch: for tests, which
    call the kernels directly.
    """
    if any(not x.is_cuda for x in tensors):
        device = next(x.device for x in tensors if not x.is_cuda)
        return f"tensor on {device}, the Triton kernel supports cuda"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'arch-search[gpu]')"
    return ""

"""A fingerprint of what a module computes: equal for programs that compute the same, whatever their text.

Every parameter is overwritten by numbers that depend on its shape and on the order of first use only, so names and the
order of definition do not matter; the output is scaled to unit length, so a constant factor does not either.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from arch_search.admission.dispatch_mode import DispatchMode
from arch_search.admission.request import FINGERPRINT_LENGTH
from arch_search.admission.subject import Subject, call, draw, is_finite
from arch_search.models.stand_in import float64_everywhere

_BATCH, _LENGTH = 2, 80


def fingerprint(subject: Subject) -> tuple[float, ...]:
    """Unit vector of FINGERPRINT_LENGTH float32 numbers; empty where the output is not finite or all zero.

    Raises whatever the program raises in float64.
    """
    with float64_everywhere():
        module = subject.build().double().eval()
        x = draw(_BATCH, _LENGTH, subject.d_model, seed=7)
        _equalise(module, _in_order_of_use(module, x))
        output = call(module, x, grad=False).flatten()
        mixing = torch.Generator().manual_seed(8)
        projection = torch.randn(FINGERPRINT_LENGTH, output.numel(), generator=mixing, dtype=torch.float64)
        features = projection @ output.double()
    size = float(features.norm())
    if not is_finite(features) or size == 0.0:
        return ()
    return tuple((features / size).float().tolist())


def _equalise(module: nn.Module, parameters: list[nn.Parameter]) -> None:
    """Matrices get unit gain; vectors stay near 1/2, a plausible gate, norm weight or logarithm of a decay."""
    alike: Counter[tuple[int, ...]] = Counter()
    for parameter in parameters:
        shape = tuple(parameter.shape)
        number = hashlib.sha256(f"{shape}/{alike[shape]}".encode()).digest()[:7]
        alike[shape] += 1
        random = torch.Generator().manual_seed(int.from_bytes(number, "big"))
        values = torch.randn(shape, generator=random, dtype=torch.float64)
        parameter.data = values * shape[-1] ** -0.5 if len(shape) > 1 else 0.5 + 0.25 * values


def _in_order_of_use(module: nn.Module, x: Tensor) -> list[nn.Parameter]:
    """Parameters as the forward pass first meets them; those it never meets come last."""
    by_id = {id(parameter): parameter for parameter in module.parameters()}
    with _FirstUses(by_id.keys()) as uses:
        call(module, x, grad=False)
    met = [by_id[key] for key in uses.order]
    return met + [parameter for key, parameter in by_id.items() if key not in set(uses.order)]


class _FirstUses(DispatchMode):
    def __init__(self, wanted: Iterable[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._wanted = set(wanted)
        self.order: list[int] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        for argument in tree_iter(args):
            if id(argument) in self._wanted:
                self._wanted.remove(id(argument))
                self.order.append(id(argument))
        return func(*args, **(kwargs or {}))

"""Growth of cost with length: what one forward pass computes, counted operator by operator.

FlopCounterMode sees neither elementwise work nor attention on a CPU, so the sizes of what operators touch are summed.
The exponent is that of the last doubling: a fit over many lengths hides a small quadratic term.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_iter

from arch_search.admission.dispatch_mode import DispatchMode
from arch_search.admission.subject import Subject, call, draw
from cognition_db.records import Verdict

# they touch no more than the part that is picked or put
_PARTIAL = ("index", "gather", "scatter", "embedding", "take", "masked_select", "put")
_LENGTHS = (512, 1024, 2048)
# beside a power of two, where no more than padding may be added
_BESIDE, _MORE_BESIDE = 1023, 1.5
# below it the first doubling already shows linear growth, and the second is not computed
_CLEARLY_LINEAR = 1.03
# chunks of 16 need about two, a loop over tokens at least five
_OPERATORS_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Of one forward pass: elements that its operators touch, elements of the largest output, number of operators."""

    elements: int
    largest: int
    operators: int


def check_cost(subject: Subject, *, max_exponent: float, exempt: bool) -> tuple[Verdict, ...]:
    """Verdicts `cost` (refuses unless `exempt`) and `operator_growth` (a mark for a loop over tokens)."""
    module = subject.build().eval()
    works = [_work(subject, module, T) for T in _LENGTHS[:2]]
    exponents = _exponents(works)
    if max(exponents.values()) > _CLEARLY_LINEAR:
        works.append(_work(subject, module, _LENGTHS[2]))
        exponents = _exponents(works)
    lengths = _LENGTHS[len(works) - 2 : len(works)]
    what, worst = max(exponents.items(), key=lambda item: item[1])
    grown = f"{what} grows as T^{worst:.2f} from T = {lengths[0]} to {lengths[1]}"
    evidence: dict[str, Any] = {name: round(value, 4) for name, value in exponents.items()} | {"lengths": list(lengths)}
    more = _work(subject, module, _BESIDE).elements / max(1, works[1].elements)
    if more > _MORE_BESIDE and worst <= max_exponent:
        worst = math.inf
        grown = f"work at T = {_BESIDE} is {more:.1f} times that at T = {_LENGTHS[1]}"
    passed = worst <= max_exponent
    reason = grown if passed else f"{grown}; allowed is T^{max_exponent:g}" + (" (exempt)" if exempt else "")
    cost = Verdict(
        check="cost",
        outcome="passed" if passed else "failed",
        reason=reason,
        refuses=not passed and not exempt,
        evidence=evidence,
    )
    return cost, _operator_growth(works, lengths)


def _operator_growth(works: list[Work], lengths: tuple[int, ...]) -> Verdict:
    rate = (works[-1].operators - works[-2].operators) / (lengths[1] - lengths[0])
    if rate <= _OPERATORS_PER_TOKEN:
        return Verdict(check="operator_growth", outcome="passed", reason=f"{rate:.2f} operators per further token")
    reason = f"{rate:.1f} operators per further token: loops over tokens in Python; a chunked form would be faster"
    return Verdict(check="operator_growth", outcome="failed", reason=reason)


def _exponents(works: list[Work]) -> dict[str, float]:
    before, after = works[-2:]
    return {
        "work": math.log2(max(1, after.elements) / max(1, before.elements)),
        "largest tensor": math.log2(max(1, after.largest) / max(1, before.largest)),
    }


def _work(subject: Subject, module: torch.nn.Module, T: int) -> Work:
    x = draw(1, T, subject.d_model, seed=5)
    # the fused attention kernels hide their work in one operator
    with sdpa_kernel(SDPBackend.MATH), _Counter() as counter:
        call(module, x, grad=False)
    return Work(elements=counter.elements, largest=counter.largest, operators=counter.operators)


class _Counter(DispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = self.largest = self.operators = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operators += 1
        if not _is_view(func):
            outputs = [tensor.numel() for tensor in tree_iter(result) if isinstance(tensor, Tensor)]
            sizes = outputs + [tensor.numel() for tensor in tree_iter(args) if isinstance(tensor, Tensor)]
            partial = func._schema.name.removeprefix("aten::").startswith(_PARTIAL)
            self.elements += (min if partial else max)(sizes, default=0)
            self.largest = max([self.largest, *outputs])
        return result


def _is_view(func: Any) -> bool:
    """Views move no data; operators in place return an alias as well, but write it."""
    return any(
        returned.alias_info is not None and not returned.alias_info.is_write for returned in func._schema.returns
    )

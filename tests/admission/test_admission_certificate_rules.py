"""Every rule against the operator itself: what the rule says does not matter is redrawn, and must not matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from certificate_programs import PROGRAM, PROVED, UNKNOWN
from test_admission_certificate import FAULTY, LEAKS, write
from torch import Tensor
from zoo.faults import FAULTS

from arch_search.admission.certificate import certify, tracker
from arch_search.admission.certificate.operators import RULES
from arch_search.admission.certificate.rules import Arguments, Context, Mark, replace_tensors, tensors_in
from arch_search.admission.subject import Subject
from arch_search.models.loading import load_mixer_class

T, D = 33, 16
# operators whose rule rests on an assumption or on the image in time, which no redraw of one operator can show
BESIDE = ("isnan", "isinf", "isfinite", "_fft_r2c", "_fft_c2r", "_fft_c2c", "_local_scalar_dense")
POSITIVE = ("log", "sqrt", "rsqrt", "pow", "div")


class Redrawing(tracker.Tracker):
    """A tracker that, after each operator, redraws operand elements above a random code and compares the outputs."""

    compared: ClassVar[Counter[str]] = Counter()
    broken: ClassVar[list[str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        given = tracker._bound(func, args, kwargs or {})
        operands = tensors_in(given)
        random = torch.Tag.nondeterministic_seeded in func.tags or name.startswith("empty")
        usable = operands and not (func._schema.is_mutable or tracker._is_view(func) or random or name in BESIDE)
        codes = {id(tensor): self.shadow.read(tensor) for tensor in operands} if usable else {}
        masks = {id(tensor): self.shadow.masked(tensor) for tensor in operands} if usable else {}
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if usable:
            self._compare(func, name, given, codes, masks, tensors_in(out))
        return out

    def _compare(
        self, func: Any, name: str, given: Any, codes: dict[int, Tensor], masks: dict[int, Tensor], outs: list[Tensor]
    ) -> None:
        levels = torch.unique(torch.cat([each.flatten() for each in codes.values()]))[:-1]
        if not len(levels):
            return
        level, plane = int(levels[torch.randint(len(levels), ())]), int(torch.randint(2, ()))

        def redrawn(tensor: Tensor) -> Tensor:
            later = codes[id(tensor)][plane] > level
            if not tensor.is_floating_point() or not bool(later.any()):
                return tensor
            old = tensor.detach()
            fresh = torch.randn(tensor.shape).to(tensor.dtype) * (old.abs().clamp(max=1e3).mean() + 0.5)
            fresh = fresh.abs() if name in POSITIVE else fresh
            return torch.where(later, torch.where(masks[id(tensor)], 1.25 * old, fresh), old)

        again = tensors_in(func(**replace_tensors(given, redrawn)))
        for before, after in zip(outs, again, strict=True):
            if not before.numel():
                continue
            kept = self.shadow.read(before)[plane] <= level
            a, b = before.detach()[kept], after.detach()[kept]
            Redrawing.compared[name] += a.numel()
            close = torch.isclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) if a.is_floating_point() else a == b
            if not bool(close.all()):
                Redrawing.broken.append(name)


def traced(folder: Path, texts: Sequence[tuple[str, str, str]]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    Redrawing.compared.clear()
    Redrawing.broken.clear()
    for number, (template, init, body) in enumerate(texts):
        place = folder / f"program{number}"
        place.mkdir()
        mixer = load_mixer_class(write(place, template, init, body), None)
        for mode in certify._MODES:
            certify.trace(Subject(mixer=mixer, d_model=D, n_heads=2), T, mode)


@pytest.fixture(autouse=True)
def _redrawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify, "Tracker", Redrawing)


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_what_a_rule_calls_independent_is_independent(tmp_path: Path) -> None:
    correct = [(PROGRAM, init, body) for init, body in (PROVED | UNKNOWN).values()]
    leaking = [(FAULTY, *FAULTS[name][1:]) for name in LEAKS]

    traced(tmp_path, correct + leaking)

    assert Redrawing.broken == []
    assert len(Redrawing.compared) >= 50
    assert sum(Redrawing.compared.values()) > 1_000_000


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        ("_softmax", "attention masked by minus infinity"),
        ("bmm", "linear attention with a product mask"),
        ("cumsum", "normalised linear attention"),
        ("mean", "norm and dropout"),
        ("convolution", "depthwise convolution padded in front"),
        ("linalg_solve_triangular", "one triangular solve"),
        ("scatter", "channels routed to the strongest by scatter and gather"),
        ("scatter_add", "channels routed to the strongest by scatter and gather"),
    ],
)
def test_a_broken_rule_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operator: str, name: str) -> None:
    def nothing_matters(context: Context, func: Any, given: Arguments) -> list[Mark]:
        honest = tracker_rules[operator](context, func, given)
        return [Mark(torch.zeros_like(mark.codes)) for mark in honest]

    tracker_rules = dict(RULES)
    monkeypatch.setitem(RULES, operator, nothing_matters)

    traced(tmp_path, [(PROGRAM, *PROVED[name])])

    assert operator in Redrawing.broken

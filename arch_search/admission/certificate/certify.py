"""The certificate: causality proved by tracking dependencies, refuted by a witness, or unknown with a line to blame.

A proof holds for one length and mode, all real inputs and weights, in exact arithmetic on finite numbers. It says
nothing of other lengths, so it is issued for several and named by them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from arch_search.admission.certificate.shadow import FOREIGN, FREE, code_of
from arch_search.admission.certificate.tracker import Tracker
from arch_search.admission.subject import Subject, Variant, call, draw, is_finite, precision
from arch_search.models.loading import mix
from cognition_db.records import Verdict

_MODES = (
    Variant(train=True, grad=True, jittered=False),
    Variant(train=False, grad=False, jittered=False),
)
_ATTACKED = (
    Variant(train=True, grad=True, jittered=True),
    Variant(train=False, grad=False, jittered=True),
    Variant(train=False, grad=False, jittered=False),
)
_SCALES = (1.0, 30.0)
_MOST_ATTACKS = 12
_SEED = 404


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What one length and mode showed. `flagged`: output times that may depend on a later input, with its time."""

    length: int
    mode: str
    flagged: tuple[tuple[int, int], ...]
    rows_mixed: bool
    of_earlier_call: bool
    reads: tuple[str, ...]
    operators: frozenset[str] = frozenset()
    unknown: dict[str, str] = field(default_factory=dict)
    mixed_at: str = ""
    assumed: tuple[str, ...] = ()

    @property
    def is_proof(self) -> bool:
        return not self.flagged and not self.rows_mixed and not self.of_earlier_call

    @property
    def blame(self) -> str:
        """Why there is no proof, with the line of the program where it was lost."""
        if self.reads:
            return f"data reaches Python by {self.reads[0]}: what the program does next depends on it"
        if self.unknown:
            name, line = next(iter(self.unknown.items()))
            return f"no rule for {name} ({line})"
        if self.of_earlier_call and not self.flagged:
            return "something of an earlier call is kept"
        if self.rows_mixed and not self.flagged:
            return f"batch rows may mix{f' ({self.mixed_at})' if self.mixed_at else ''}"
        return f"all times are joined first at {self.mixed_at}" if self.mixed_at else "a later input may be read"


def check_certificate(subject: Subject, lengths: Sequence[int], tolerance: float) -> tuple[Verdict, ...]:
    """Verdict `certificate`: passed is a proof, unknown a mark that names a line; a witness fails `causality`."""
    traces = [trace(subject, T, variant) for T in lengths for variant in _MODES]
    where = f"T = {', '.join(map(str, lengths))}; train and eval"
    evidence: dict[str, Any] = {
        "lengths": list(lengths),
        "operators": len(frozenset().union(*(one.operators for one in traces))),
        "assumed": sorted({assumption for one in traces for assumption in one.assumed}),
    }
    lacking = [one for one in traces if not one.is_proof]
    if not lacking:
        reason = f"proved at {where}"
        return (Verdict(check="certificate", outcome="passed", reason=reason, evidence=evidence),)
    first = lacking[0]
    evidence |= {"blame": first.blame, "operators_without_rule": first.unknown, "reads": list(first.reads)}
    for one in lacking:
        found = attack(subject, one, tolerance)
        if found is not None:
            reason = f"sees the future: {found.pop('words')} ({one.blame})"
            return (
                Verdict(check="causality", outcome="failed", reason=reason, refuses=True, evidence=evidence | found),
            )
    proved = sorted({one.length for one in traces} - {one.length for one in lacking})
    beside = f"; proved at T = {', '.join(map(str, proved))}" if proved else ""
    reason = f"not proved at T = {first.length} ({first.mode}): {first.blame}; no witness found{beside}"
    return (Verdict(check="certificate", outcome="unknown", reason=reason, evidence=evidence),)


def trace(subject: Subject, T: int, variant: Variant) -> Trace:
    """Two calls of a fresh module under the tracker; the second must not depend on the first."""
    module = subject.build_as(variant)
    source = getattr(sys.modules.get(subject.mixer.__module__), "__file__", None) or ""
    tracker = Tracker(source, T - 1)
    tracker.shadow.mark_parameters(module)
    flagged: set[tuple[int, int]] = set()
    rows_mixed = of_earlier_call = False
    for number in range(2):
        x = draw(2, T, subject.d_model, seed=_SEED + number)
        tracker.shadow.make_foreign()
        tracker.shadow.mark_input(x)
        torch.manual_seed(_SEED)
        with sdpa_kernel(SDPBackend.MATH), torch.set_grad_enabled(variant.grad), tracker.watching():
            output = mix(module, x).detach()
        codes = torch.maximum(tracker.shadow.read(output), tracker.read_codes[:, None, None, None])
        of_earlier_call |= bool((codes == FOREIGN).any())
        codes = codes.masked_fill(codes == FOREIGN, FREE).amax(dim=-1)
        for row in range(2):
            own = codes[row, row]
            late = own > torch.arange(code_of(0), code_of(T))
            flagged |= {(t, int(own[t]) - code_of(0)) for t in late.nonzero().flatten().tolist()}
            rows_mixed |= bool((codes[1 - row, row] > FREE).any())
    return Trace(
        length=T,
        mode=variant.words,
        flagged=tuple(sorted(flagged)),
        rows_mixed=rows_mixed,
        of_earlier_call=of_earlier_call,
        reads=tuple(dict.fromkeys(tracker.reads)),
        operators=frozenset(tracker.operators),
        unknown=tracker.unknown,
        mixed_at=tracker.mixed_at,
        assumed=tuple(tracker.context.assumed),
    )


def attack(subject: Subject, found: Trace, tolerance: float) -> dict[str, Any] | None:
    """Try to move a flagged output by a later input, in float64; the witness, or None."""
    if not found.flagged:
        return None
    try:
        with precision(torch.float64):
            return _attack(subject, found, tolerance)
    except (RuntimeError, TypeError, ValueError):
        return None  # the battery says why it does not run in float64


def _attack(subject: Subject, found: Trace, tolerance: float) -> dict[str, Any] | None:
    T = found.length
    for variant in _ATTACKED:
        module = subject.build_as(variant)
        for scale in _SCALES:
            x = draw(2, T, subject.d_model, seed=_SEED)
            other = draw(2, T, subject.d_model, seed=_SEED + 7, scale=scale)
            base = call(module, x, grad=variant.grad).detach()
            if not torch.equal(base, call(module, x, grad=variant.grad).detach()):
                return None  # it remembers calls: what moves shows nothing, and another check refuses it
            for output, source in _targets(found.flagged):
                for sources in (slice(source, source + 1), slice(output + 1, T)):
                    moved = _moved(module, x, other, sources, variant)
                    if not is_finite(base, moved):
                        continue
                    size = max(1.0, float(base.abs().max()), float(moved.abs().max()))
                    amount = float((base - moved)[:, : output + 1].abs().max()) / size
                    if amount > tolerance:
                        return _witness(base - moved, size, sources, output, found.length, variant)
    return None


def _targets(flagged: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """A few of the flagged pairs, spread over the sequence."""
    step = max(1, len(flagged) // _MOST_ATTACKS)
    return list(flagged[::step])


def _moved(module: nn.Module, x: Tensor, other: Tensor, sources: slice, variant: Variant) -> Tensor:
    changed = x.clone()
    changed[:, sources] = other[:, sources]
    return call(module, changed, grad=variant.grad).detach()


def _witness(
    difference: Tensor, size: float, sources: slice, last: int, length: int, variant: Variant
) -> dict[str, Any]:
    amounts = difference[:, : last + 1].abs().amax(dim=-1).amax(dim=0)
    position = int(amounts.argmax())
    amount = float(amounts[position]) / size
    several = sources.stop - sources.start > 1
    source = (
        f"inputs {sources.start} to {sources.stop - 1} together move" if several else f"input {sources.start} moves"
    )
    return {
        "words": f"{source} output {position} by {amount:.1e} at T = {length} ({variant.words})",
        "length": length,
        "mode": variant.words,
        "input_position": sources.start,
        "output_position": position,
        "amount": amount,
    }

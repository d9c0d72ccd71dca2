"""Causality by experiment: does a changed future, another batch row or a cut-off end move an earlier output?

A future leak is shown at fixed length and refuses. A difference between f(x[:c]) and f(x)[:c] without one means that
the module reads the length, which decoding would not repeat; that is only a mark. Futures are finite and large, never
NaN: a masked product makes NaN of NaN in every correct module. Recipe: float64, changed futures at two scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from arch_search.admission.subject import Subject, Variant, call, draw, is_finite, precision
from cognition_db.records import Verdict

SCALES = (1.0, 30.0)
_CUTS = (1, 16, 64, 128, 256)
_WITNESS_TRIALS = 24
# rounding of float32 in a chunked layer, where a program cannot run in float64
_FLOAT32_TOLERANCE = 1e-3
_TRAINING = Variant(train=True, grad=True, jittered=True)
_USE = Variant(train=False, grad=False, jittered=True)
# at the longest length only: what the two above leave out
_BESIDE = (
    Variant(train=False, grad=False, jittered=False),
    Variant(train=True, grad=True, jittered=False),
    Variant(train=True, grad=False, jittered=True),
    Variant(train=False, grad=True, jittered=True),
)
_BASE_SEED, _FUTURE_SEED, _ROW_SEED = 101, 202, 303


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    """An output that moved: where, by how much, relative to the largest output."""

    row: int
    position: int
    amount: float


def check_causality(subject: Subject, lengths: Sequence[int], tolerance: float) -> tuple[Verdict, ...]:
    """Verdicts `causality` (a witness refuses) and `length_dependence` (a mark); in float64, else in float32."""
    try:
        return _causality(subject, lengths, tolerance, torch.float64)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = f"does not run in float64 ({_short(error)}); "
    in_float32 = _causality(subject, lengths, max(tolerance, _FLOAT32_TOLERANCE), torch.float32)
    return tuple(
        verdict
        if verdict.outcome != "passed"
        else Verdict(check=verdict.check, outcome="unknown", reason=f"{reason}in float32 {verdict.reason}")
        for verdict in in_float32
    )


def check_as_trained(subject: Subject, B: int, T: int, tolerance: float) -> tuple[Verdict, ...]:
    """Verdict `as_trained` (a witness fails `causality`): at the width, layer, rows and dtype of training.

    A leak may wait for any of these. Two futures each, in float32 with its rounding and in float64 where that runs.
    """
    for dtype, allowed in ((torch.float32, max(tolerance, _FLOAT32_TOLERANCE)), (torch.float64, tolerance)):
        try:
            leak = _leak_as_trained(subject, B, T, allowed, dtype)
        except (RuntimeError, TypeError, ValueError):
            continue  # the checks before this one say whether it runs
        if leak is not None:
            return (leak,)
    reason = f"no earlier output moved at its size in training: {B} rows, T = {T}, layer {subject.layer_idx}"
    return (Verdict(check="as_trained", outcome="passed", reason=reason),)


def _leak_as_trained(subject: Subject, B: int, T: int, tolerance: float, dtype: torch.dtype) -> Verdict | None:
    with precision(dtype):
        for variant in (_TRAINING, _USE):
            module = subject.build_as(variant)
            for rows, length in ((B, T), (1, T), (B, T - 1)):
                x = draw(rows, length, subject.d_model, seed=_BASE_SEED + T)
                cuts = sorted({length // 2, length - 1} - {0})
                # what is not finite is told by the checks before this one
                leak = _future_leak(module, x, variant, tolerance, [], cuts=cuts, scales=SCALES[:1])
                if leak is not None:
                    return leak
    return None


def check_rows(subject: Subject, lengths: Sequence[int], tolerance: float) -> tuple[Verdict, ...]:
    """Verdicts `batch_rows` (a row that moves another refuses) and `batch_size` (a mark)."""
    try:
        return _rows(subject, lengths, tolerance, torch.float64)
    except (RuntimeError, TypeError, ValueError):
        return _rows(subject, lengths, max(tolerance, _FLOAT32_TOLERANCE), torch.float32)


def _causality(subject: Subject, lengths: Sequence[int], tolerance: float, dtype: torch.dtype) -> tuple[Verdict, ...]:
    undecided: list[str] = []
    tested = [T for T in sorted(set(lengths)) if T > 1]
    with precision(dtype):
        for variant, T in _plan(tested):
            module = subject.build_as(variant)
            x = draw(2, T, subject.d_model, seed=_BASE_SEED + T)
            leak = _future_leak(module, x, variant, tolerance, undecided, cuts=_cuts(T))
            if leak is not None:
                return (leak,)
        length = _length_dependence(subject, tested, tolerance)
    held = f"T = {', '.join(map(str, tested))}; train and eval; gradient on and off; initial and jittered weights"
    if undecided:
        verdict = Verdict(check="causality", outcome="unknown", reason=f"not decided: {undecided[0]}; else {held}")
    else:
        verdict = Verdict(check="causality", outcome="passed", reason=f"no earlier output moved at {held}")
    return verdict, length


def _plan(lengths: Sequence[int]) -> Iterator[tuple[Variant, int]]:
    for T in lengths:
        yield _TRAINING, T
        yield _USE, T
    for variant in _BESIDE if lengths else ():
        yield variant, lengths[-1]


def _future_leak(
    module: nn.Module,
    x: Tensor,
    variant: Variant,
    tolerance: float,
    undecided: list[str],
    *,
    cuts: Sequence[int],
    scales: Sequence[float] = SCALES,
) -> Verdict | None:
    T, D = x.shape[1:]
    base = call(module, x, grad=variant.grad).detach()
    for cut in cuts:
        for scale in scales:
            changed = x.clone()
            changed[:, cut:] = draw(x.shape[0], T, D, seed=_FUTURE_SEED + cut, scale=scale)[:, cut:]
            moved_to = call(module, changed, grad=variant.grad).detach()
            if not is_finite(base, moved_to):
                undecided.append(f"output not finite with a future of scale {scale:g} at T = {T} ({variant.words})")
                continue
            move = _largest_move(base, moved_to, range(cut), tolerance)
            if move is not None:
                return _witness(module, x, changed, cut, scale, variant, tolerance, move)
    return None


def _cuts(T: int) -> list[int]:
    return sorted({cut for cut in (*_CUTS, T // 2, T - 1) if 0 < cut < T})


def _largest_move(base: Tensor, other: Tensor, positions: range, tolerance: float) -> _Move | None:
    """The output among `positions` that differs most, if by more than `tolerance` of the largest output."""
    difference = (base - other)[:, positions.start : positions.stop].abs().amax(dim=-1)
    # an FFT rounds relative to the largest value anywhere, also for a causal filter
    scale = max(1.0, float(base.abs().max()), float(other.abs().max()))
    amount = float(difference.max()) / scale
    if amount <= tolerance:
        return None
    row, position = divmod(int(difference.argmax()), difference.shape[1])
    return _Move(row=row, position=positions.start + position, amount=amount)


def _witness(
    module: nn.Module,
    x: Tensor,
    changed: Tensor,
    cut: int,
    scale: float,
    variant: Variant,
    tolerance: float,
    move: _Move,
) -> Verdict:
    """Which single input position moves an earlier output, where one alone does."""
    T = x.shape[1]
    base = call(module, x, grad=variant.grad).detach()
    source, best = f"inputs {cut} to {T - 1} together move", move
    evidence: dict[str, Any] = {"length": T, "cut": cut, "scale": scale, "mode": variant.words}
    step = max(1, (T - cut) // _WITNESS_TRIALS)
    for position in sorted({*range(cut, T, step), T - 1}):
        single = x.clone()
        single[:, position] = changed[:, position]
        output = call(module, single, grad=variant.grad).detach()
        alone = _largest_move(base, output, range(cut), tolerance) if is_finite(output) else None
        if alone is not None:
            source, best = f"input {position} moves", alone
            evidence["input_position"] = position
            break
    evidence |= {"output_position": best.position, "row": best.row, "amount": best.amount}
    reason = f"sees the future: {source} output {best.position} by {best.amount:.1e} at T = {T} ({variant.words})"
    return Verdict(check="causality", outcome="failed", reason=reason, refuses=True, evidence=evidence)


def _length_dependence(subject: Subject, lengths: Sequence[int], tolerance: float) -> Verdict:
    module = subject.build_as(_USE)
    for T in lengths:
        x = draw(2, T, subject.d_model, seed=_BASE_SEED + T)
        whole = call(module, x, grad=False)
        for cut in _cuts(T):
            prefix = call(module, x[:, :cut].contiguous(), grad=False)
            if not is_finite(whole, prefix):
                reason = f"output not finite for a prefix of {cut} at T = {T}"
                return Verdict(check="length_dependence", outcome="unknown", reason=reason)
            move = _largest_move(whole[:, :cut], prefix, range(cut), tolerance)
            if move is not None:
                reason = (
                    f"output {move.position} at T = {T} differs by {move.amount:.1e} from that of the first {cut} "
                    "tokens alone: the module reads the length, so decoding differs from training"
                )
                evidence = {"length": T, "cut": cut, "output_position": move.position, "amount": move.amount}
                return Verdict(check="length_dependence", outcome="failed", reason=reason, evidence=evidence)
    return Verdict(check="length_dependence", outcome="passed", reason="prefixes give the same outputs")


def _rows(subject: Subject, lengths: Sequence[int], tolerance: float, dtype: torch.dtype) -> tuple[Verdict, ...]:
    with precision(dtype):
        for T in lengths:
            x = draw(3, T, subject.d_model, seed=_BASE_SEED + T)
            for variant in (_TRAINING, _USE):
                module = subject.build_as(variant)
                mixing = _mixed_rows(module, x, variant, tolerance)
                if mixing is not None:
                    return (mixing,)
        single = _batch_size(module, x, tolerance)
    reason = f"replacing a row leaves the others alone at T = {', '.join(map(str, lengths))}"
    return Verdict(check="batch_rows", outcome="passed", reason=reason), single


def _mixed_rows(module: nn.Module, x: Tensor, variant: Variant, tolerance: float) -> Verdict | None:
    B, T, D = x.shape
    base = call(module, x, grad=variant.grad).detach()
    for replaced in range(B):
        for scale in SCALES if replaced == 1 else SCALES[:1]:
            changed = x.clone()
            changed[replaced] = draw(B, T, D, seed=_ROW_SEED + replaced, scale=scale)[replaced]
            output = call(module, changed, grad=variant.grad).detach()
            others = [row for row in range(B) if row != replaced]
            if not is_finite(base[others], output[others]):
                continue
            move = _largest_move(base[others], output[others], range(T), tolerance)
            if move is not None:
                row = others[move.row]
                reason = (
                    f"mixes batch rows: changing row {replaced} moves output {move.position} of row {row} by "
                    f"{move.amount:.1e} at T = {T} ({variant.words})"
                )
                evidence = {"length": T, "replaced_row": replaced, "row": row, "output_position": move.position}
                return Verdict(check="batch_rows", outcome="failed", reason=reason, refuses=True, evidence=evidence)
    return None


def _batch_size(module: nn.Module, x: Tensor, tolerance: float) -> Verdict:
    """In eval mode: dropout draws another mask for another shape."""
    together, alone = call(module, x, grad=False)[:1], call(module, x[:1], grad=False)
    move = _largest_move(together, alone, range(x.shape[1]), tolerance) if is_finite(together, alone) else None
    if move is None:
        return Verdict(check="batch_size", outcome="passed", reason="one row alone gives the same outputs")
    reason = f"output {move.position} of a row differs by {move.amount:.1e} when the row comes alone"
    return Verdict(check="batch_size", outcome="failed", reason=reason)


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"

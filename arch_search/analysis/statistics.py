"""Statistics of a campaign: improvement over the reference in paired seeds, its noise, verdicts. Pure over the archive.

A program that was trained again with hidden seeds is judged by these alone: the seeds it was chosen by are lucky ones.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtr

from arch_search.analysis.noise import Noise, Values, noise, t_interval
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import HIDDEN_SEEDS_FROM, Arm, Candidate, Evaluation, Rung

Verdict = Literal["better", "worse", "within_noise", "not_measured"]
# +1 where more is better. Improvements are multiplied by it: positive is better for every metric.
ORIENTATION: Mapping[str, int] = {"recall_accuracy": 1, "heldout_loss": -1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One program against the reference. `low`, `high` and `p_value` are NaN where noise is unknown."""

    n: int  # seeds the improvement rests on
    improvement: float
    low: float
    high: float
    p_value: float  # two-sided, for itself alone
    paired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Place of one program. `improvement` is over the reference, positive = better, in the unit of the metric.

    `low` and `high` bound it at the asked confidence for this program alone; `verdict` uses `p_adjusted` (Holm over
    all programs of the search, or over all baselines), so an interval beside zero may still be within noise. Of a
    repeated program all of these rest on the hidden seeds; `first` is the improvement that it was chosen by.
    """

    candidate_id: str
    name: str
    arm: Arm
    rung: Rung
    generation: int
    n: int  # finished seeds
    failed: int  # seeds that ended otherwise; one is enough for not_measured
    mean: float  # of the metric as measured, over the finished seeds
    improvement: float
    low: float
    high: float
    p_adjusted: float
    paired: bool
    verdict: Verdict
    note: str
    first: float = math.nan  # NaN where the program was not repeated

    @property
    def is_repeated(self) -> bool:
        return math.isfinite(self.first)


def standings(contents: ArchiveContents, *, reference_id: str, metric: str, confidence: float) -> tuple[Standing, ...]:
    """Every candidate and baseline, ranked by lower bound; programs without an interval come last.

    The reference stands at improvement 0 with the interval [0, 0]: whatever ranks above it leaves zero out.
    """
    values = judged_values(contents.evaluations, metric, reference_id=reference_id)
    failed = failed_seeds(contents.evaluations, metric)
    first = _first_improvements(contents, reference_id=reference_id, metric=metric, confidence=confidence)
    sound = {key: seeds for key, seeds in values.items() if key == reference_id or not failed.get(key)}
    compared = compare(
        oriented(sound, metric),
        reference_id=reference_id,
        confidence=confidence,
        noise=noise_of(contents, reference_id=reference_id, metric=metric),
    )
    adjusted = _adjusted(contents.candidates, compared, reference_id)
    rows = [
        _standing(
            candidate,
            values=values.get(candidate.id, {}),
            failed=failed.get(candidate.id, 0),
            comparison=compared.get(candidate.id),
            p_adjusted=adjusted.get(candidate.id, math.nan),
            is_reference=candidate.id == reference_id,
            level=1.0 - confidence,
            first=first.get(candidate.id, math.nan),
        )
        for candidate in contents.candidates
    ]
    return tuple(sorted(rows, key=_rank_key))


def without_repeats(contents: ArchiveContents) -> ArchiveContents:
    """The same before any program was repeated: there all programs were measured alike, and none was chosen."""
    kept = tuple(one for one in contents.evaluations if one.task.seed < HIDDEN_SEEDS_FROM)
    return replace(contents, evaluations=kept)


def repeated(contents: ArchiveContents) -> set[str]:
    """Ids of the candidates that were trained with hidden seeds."""
    return {one.task.candidate_id for one in contents.evaluations if one.task.seed >= HIDDEN_SEEDS_FROM}


def judged_values(evaluations: Iterable[Evaluation], metric: str, *, reference_id: str) -> dict[str, dict[int, float]]:
    """As `seed_values`, but of a repeated program the hidden seeds alone; the reference keeps all of its seeds."""
    judged = {}
    for key, seeds in seed_values(evaluations, metric).items():
        hidden = {seed: value for seed, value in seeds.items() if seed >= HIDDEN_SEEDS_FROM}
        judged[key] = hidden if hidden and key != reference_id else seeds
    return judged


def seed_values(evaluations: Iterable[Evaluation], metric: str) -> dict[str, dict[int, float]]:
    """Finite values of finished tasks, as measured: candidate id -> seed -> value.

    Raises ValueError for evaluations of several stages: values of two scales must not be averaged.
    """
    stages: set[str] = set()
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for evaluation in evaluations:
        stages.add(evaluation.task.stage)
        value = evaluation.score(metric)
        if value is not None and math.isfinite(value):
            values[evaluation.task.candidate_id][evaluation.task.seed] = value
    if len(stages) > 1:
        raise ValueError(f"evaluations of the stages {', '.join(sorted(stages))}; pass those of one stage")
    return dict(values)


def failed_seeds(evaluations: Iterable[Evaluation], metric: str) -> dict[str, int]:
    """Tasks without a finite value of the metric, by candidate id: a program is not judged by its lucky seeds."""
    failed: dict[str, int] = defaultdict(int)
    for evaluation in evaluations:
        value = evaluation.score(metric)
        if value is None or not math.isfinite(value):
            failed[evaluation.task.candidate_id] += 1
    return dict(failed)


def oriented(values: Values, metric: str) -> dict[str, dict[int, float]]:
    """The values with the sign that makes more better."""
    sign = ORIENTATION[metric]
    return {key: {seed: sign * value for seed, value in seeds.items()} for key, seeds in values.items()}


def noise_of(contents: ArchiveContents, *, reference_id: str, metric: str) -> Noise:
    """Noise of the metric in this campaign; see Noise."""
    same = {reference_id} | {candidate.id for candidate in contents.candidates if candidate.arm == "placebo"}
    return noise(seed_values(contents.evaluations, metric), same_program=same)


def compare(values: Values, *, reference_id: str, noise: Noise, confidence: float) -> dict[str, Comparison]:
    """Improvement over the reference of every other program in `values` (oriented: more is better)."""
    reference = values.get(reference_id)
    if not reference:
        return {}
    return {
        key: _comparison(seeds, reference, noise, confidence)
        for key, seeds in values.items()
        if key != reference_id and seeds
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number (Holm 1979): significant at level a in the family where below a."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def wilson(count: int, total: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share; (0, 1) where nothing was counted."""
    if total == 0:
        return 0.0, 1.0
    z = float(ndtri(0.5 + confidence / 2.0))
    share = count / total
    scale = 1.0 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1.0 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def _comparison(
    seeds: Mapping[int, float], reference: Mapping[int, float], noise: Noise, confidence: float
) -> Comparison:
    shared = sorted(seeds.keys() & reference.keys())
    if shared:
        n, sd, df = len(shared), noise.sd, noise.df
        improvement = float(np.mean([seeds[seed] - reference[seed] for seed in shared]))
        standard_error = sd * math.sqrt(2.0 / n)
    else:
        n, sd, df = len(seeds), noise.unpaired_sd, noise.unpaired_df
        improvement = float(np.mean(list(seeds.values())) - np.mean(list(reference.values())))
        standard_error = sd * math.sqrt(1.0 / n + 1.0 / len(reference))
    low, high, p_value = math.nan, math.nan, math.nan
    if df >= 1:
        low, high = t_interval(improvement, standard_error, df, confidence)
        p_value = 2.0 * float(stdtr(df, -abs(improvement) / standard_error))
    return Comparison(n=n, improvement=improvement, low=low, high=high, p_value=p_value, paired=bool(shared))


def _adjusted(
    candidates: Iterable[Candidate], compared: Mapping[str, Comparison], reference_id: str
) -> dict[str, float]:
    """Holm's adjustment in two families: what the search made (placebos included), and the baselines."""
    adjusted: dict[str, float] = {}
    rows = [candidate for candidate in candidates if candidate.id != reference_id]
    for is_baseline in (False, True):
        family = [
            candidate.id
            for candidate in rows
            if (candidate.arm == "baseline") is is_baseline
            and candidate.id in compared
            and math.isfinite(compared[candidate.id].p_value)
        ]
        adjusted |= dict(zip(family, holm([compared[key].p_value for key in family]), strict=True))
    return adjusted


def _standing(
    candidate: Candidate,
    *,
    values: Mapping[int, float],
    failed: int,
    comparison: Comparison | None,
    p_adjusted: float,
    is_reference: bool,
    level: float,
    first: float,
) -> Standing:
    if is_reference and values:
        comparison = Comparison(n=len(values), improvement=0.0, low=0.0, high=0.0, p_value=1.0, paired=True)
        p_adjusted = 1.0
    return Standing(
        candidate_id=candidate.id,
        name=candidate.name,
        arm=candidate.arm,
        rung=candidate.rung,
        generation=candidate.generation,
        n=len(values),
        failed=failed,
        mean=float(np.mean(list(values.values()))) if values else math.nan,
        improvement=comparison.improvement if comparison else math.nan,
        low=comparison.low if comparison else math.nan,
        high=comparison.high if comparison else math.nan,
        p_adjusted=p_adjusted,
        paired=comparison.paired if comparison else False,
        verdict=_verdict(comparison, p_adjusted, level),
        note=_note(len(values), failed, comparison, first),
        first=first,
    )


def _first_improvements(
    contents: ArchiveContents, *, reference_id: str, metric: str, confidence: float
) -> dict[str, float]:
    """Of every program that was repeated, the improvement on the seeds before that."""
    again = repeated(contents) - {reference_id}
    if not again:
        return {}
    rows = standings(without_repeats(contents), reference_id=reference_id, metric=metric, confidence=confidence)
    return {row.candidate_id: row.improvement for row in rows if row.candidate_id in again}


def _verdict(comparison: Comparison | None, p_adjusted: float, level: float) -> Verdict:
    if comparison is None or not math.isfinite(p_adjusted):
        return "not_measured"
    if p_adjusted >= level:
        return "within_noise"
    return "better" if comparison.improvement > 0 else "worse"


def _note(n: int, failed: int, comparison: Comparison | None, first: float) -> str:
    """Why there is no interval, or what is unusual about it; empty for the usual case."""
    if comparison is None:
        if failed:
            return f"{failed} of {n + failed} seeds did not finish"
        return "no run yet" if n == 0 else "the reference has no finished run"
    if not math.isfinite(comparison.low):
        return "noise unknown: too few programs with two different seeds"
    if not comparison.paired:
        return "unpaired: no seed shared with the reference"
    left_out = n - comparison.n
    if left_out:
        return f"{left_out} seeds without a reference run left out"
    return f"on hidden seeds; {first:+.3f} when it was chosen" if math.isfinite(first) else ""


def _rank_key(row: Standing) -> tuple[bool, float, float, str]:
    has_interval = math.isfinite(row.low)
    improvement = row.improvement if math.isfinite(row.improvement) else -math.inf
    return not has_interval, -row.low if has_interval else 0.0, -improvement, row.candidate_id

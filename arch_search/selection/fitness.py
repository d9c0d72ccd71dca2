"""What a candidate is worth as a parent: the measured one, and the published one of ASI-Arch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from arch_search.analysis.statistics import failed_seeds, judged_values, standings
from arch_search.selection.agreement import judge_scores
from cognition_db.experience.archive import ArchiveContents

# Differences beyond a tenth of the baseline count no further, and the sigmoid is 6 times as steep (ASI-Arch, eq. 2).
_WINDOW = 0.1
_STEEPNESS = 6.0
_LOSS, _BENCHMARK = "heldout_loss", "recall_accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFitness:
    """The three terms, each in [0, 1], and their weighted mean."""

    loss: float
    benchmark: float
    judge: float
    total: float


def paired_fitness(contents: ArchiveContents, *, reference_id: str, metric: str, confidence: float) -> dict[str, float]:
    """Lower confidence bound of the improvement over the reference, by candidate id.

    The reference has 0; what was not measured, or has no interval yet, has minus infinity.
    """
    rows = standings(contents, reference_id=reference_id, metric=metric, confidence=confidence)
    return {row.candidate_id: row.low if math.isfinite(row.low) else -math.inf for row in rows}


def published_fitness(
    contents: ArchiveContents, *, reference_id: str, judge_weight: float
) -> dict[str, PublishedFitness]:
    """ASI-Arch's fitness of every candidate that its pool would hold, by candidate id.

    fitness = (sigma(loss) + sigma(benchmark) + w * (judge - 1) / 9) / (2 + w), where sigma(d) is the logistic
    function of 6 * clip(d / 0.1, -1, 1) and d the relative difference to the reference. w = 1 is the paper's
    equation 2; w = 0 leaves the judge out. Deviations: the published constants 4.575 and 0.224 are the reference's
    means of this campaign, the loss is the held-out one averaged over seeds, the benchmark is recall accuracy. A
    missing or non-finite measurement leaves the candidate out, where the published code gave 0.5 or more; a missing
    judge's score counts 0. Like the published pool, candidates are left out whose loss differs from the reference's
    by a tenth or more (lower as well: a leak) or whose benchmark is a tenth or more below it.

    Source: arXiv 2507.18074, equation 2, and pipeline/database of GAIR-NLP/ASI-Arch at 5995939.
    """
    losses = _means(contents, _LOSS, reference_id)
    benchmarks = _means(contents, _BENCHMARK, reference_id)
    if reference_id not in losses or reference_id not in benchmarks:
        return {}
    judged = judge_scores(contents)
    fitness: dict[str, PublishedFitness] = {}
    for key in losses.keys() & benchmarks.keys():
        lower = -relative_difference(losses[key], losses[reference_id])
        higher = relative_difference(benchmarks[key], benchmarks[reference_id])
        if abs(lower) >= _WINDOW or higher <= -_WINDOW:
            continue
        loss, benchmark = sigmoid_term(lower), sigmoid_term(higher)
        judge = (judged[key] - 1.0) / 9.0 if key in judged else 0.0
        total = (loss + benchmark + judge_weight * judge) / (2.0 + judge_weight)
        fitness[key] = PublishedFitness(loss=loss, benchmark=benchmark, judge=judge, total=total)
    return fitness


def sigmoid_term(difference: float) -> float:
    """Published squashing of a relative difference, positive = better; 0.5 at no difference."""
    return 1.0 / (1.0 + math.exp(-_STEEPNESS * min(max(difference / _WINDOW, -1.0), 1.0)))


def relative_difference(value: float, baseline: float) -> float:
    """(value - baseline) / baseline; from a baseline of zero any gain is a whole one."""
    if baseline == 0.0:
        return math.copysign(1.0, value) if value else 0.0
    return (value - baseline) / abs(baseline)


def _means(contents: ArchiveContents, metric: str, reference_id: str) -> Mapping[str, float]:
    """Mean over seeds of the reference, and of every candidate all of whose seeds finished."""
    failed = failed_seeds(contents.evaluations, metric)
    return {
        key: math.fsum(seeds.values()) / len(seeds)
        for key, seeds in judged_values(contents.evaluations, metric, reference_id=reference_id).items()
        if key == reference_id or not failed.get(key)
    }

"""How far the Judge's marks agree with what was measured, and the weight that they earn by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from arch_search.analysis.statistics import Standing
from arch_search.config import Selection
from cognition_db.experience.archive import ArchiveContents

# One-sided confidence at which the correlation must hold before it earns weight.
_CONFIDENCE = 0.95
MIN_COUNT = 20  # programs that were both judged and measured, below which nothing is earned


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Spearman's rank correlation of marks with measured improvements, its 90 % interval and the programs it rests on.

    NaN where there is none: fewer than four programs, or all marks or all improvements are the same.
    """

    count: int
    correlation: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def earned(self) -> float:
        """Weight in [0, 1]: the lower bound, at least 0; 0 below MIN_COUNT programs and without a correlation."""
        return max(0.0, self.low) if self.count >= MIN_COUNT and math.isfinite(self.low) else 0.0


def agreement(marks: Sequence[float], improvements: Sequence[float]) -> Agreement:
    """Of the pairs in which both are finite.

    The bounds are Fisher's, with the variance 1.06 / (n - 3) of Spearman's coefficient (Fieller, Hartley and Pearson
    1957); each holds with 95 % confidence.
    """
    pairs = [pair for pair in zip(marks, improvements, strict=True) if all(map(math.isfinite, pair))]
    if len(pairs) < 4:
        return Agreement(count=len(pairs))
    first, second = np.array(pairs).T
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return Agreement(count=len(pairs))
    correlation = float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])
    middle = math.atanh(min(max(correlation, 1e-9 - 1.0), 1.0 - 1e-9))
    margin = float(ndtri(_CONFIDENCE)) * math.sqrt(1.06 / (len(pairs) - 3))
    return Agreement(
        count=len(pairs),
        correlation=correlation,
        low=math.tanh(middle - margin),
        high=math.tanh(middle + margin),
    )


def agreement_in(contents: ArchiveContents, standings: Mapping[str, Standing]) -> Agreement:
    """Of all programs of the archive that were judged and measured."""
    pairs = [(mark, standings[key].improvement) for key, mark in judge_scores(contents).items() if key in standings]
    return agreement([mark for mark, _ in pairs], [improvement for _, improvement in pairs])


def judge_weight(config: Selection, agreed: Agreement) -> float:
    """Weight of the Judge's marks: `selection.judge_weight` times what they have earned, or all of it unmeasured."""
    return config.judge_weight * (agreed.earned if config.judge_weight_measured else 1.0)


def judge_scores(contents: ArchiveContents) -> dict[str, float]:
    """Recorded opinions on the scale 1 to 10, by candidate id; those outside the scale are left out."""
    return {
        lesson.candidate_id: lesson.judge_score
        for lesson in contents.lessons
        if lesson.judge_score is not None and 1.0 <= lesson.judge_score <= 10.0
    }


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2.0)[place]
    return ranks

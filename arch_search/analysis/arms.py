"""Arms and rungs compared: how many proposals came through each step, and what those measured gained on average."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from arch_search.analysis.noise import Noise, t_interval
from arch_search.analysis.statistics import Comparison, Standing, wilson
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Arm, SlotTry

OverParents = Mapping[str, Comparison]  # as of parents.against_parents
CONTROLS: tuple[Arm, ...] = ("best_of_n", "mutate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """`count` of `total`, with Wilson's interval of the share."""

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.count / self.total if self.total else math.nan


def share_of(count: int, total: int, confidence: float) -> Share:
    low, high = wilson(count, total, confidence)
    return Share(count=count, total=total, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One arm or rung. Shares are of the asked, but `better` and `over_parent`, which are of the measured.

    `over_parent` counts intervals above zero, each taken for itself alone: where nothing differs from its parent,
    (1 - confidence) / 2 of them are.
    """

    label: str
    asked: int
    rendered: Share  # the reply made a program
    admitted: Share
    trained: Share  # at least one seed finished
    better: Share  # than the reference, adjusted for the number of programs
    over_parent: Share  # better than its own parent
    improvement: float  # mean over the measured programs; NaN without one
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Mean improvement of `evolve` minus that of a control, over `n` and `control_n` measured programs."""

    control: Arm
    n: int
    control_n: int
    difference: float
    low: float
    high: float


def against_controls(standings: Sequence[Standing], *, confidence: float) -> tuple[Contrast, ...]:
    """Whether building on earlier programs pays: against the same model without history, and random mutations.

    Welch's interval over programs; the error of the reference is in both means and cancels. Give standings without
    repeats: only chosen programs have those. Controls of fewer than two measured programs are left out.
    """
    gains = {
        arm: np.array([row.improvement for row in standings if row.arm == arm and row.verdict != "not_measured"])
        for arm in ("evolve", *CONTROLS)
    }
    evolved = gains["evolve"]
    found = []
    for arm in CONTROLS:
        control = gains[arm]
        if min(len(evolved), len(control)) < 2:
            continue
        parts = [float(values.var(ddof=1)) / len(values) for values in (evolved, control)]
        difference, low, high = float(evolved.mean() - control.mean()), math.nan, math.nan
        if sum(parts):
            df = sum(parts) ** 2 / (parts[0] ** 2 / (len(evolved) - 1) + parts[1] ** 2 / (len(control) - 1))
            low, high = t_interval(difference, math.sqrt(sum(parts)), df, confidence)
        found.append(
            Contrast(control=arm, n=len(evolved), control_n=len(control), difference=difference, low=low, high=high)
        )
    return tuple(found)


def by_arm(
    contents: ArchiveContents, standings: Sequence[Standing], *, parents: OverParents, noise: Noise, confidence: float
) -> tuple[Group, ...]:
    """One group per arm that asked for programs, in the order of their first proposal."""
    make = partial(_group, parents=parents, noise=noise, confidence=confidence)
    return _groups(contents.tries, standings, lambda row: row.arm, lambda tried: tried.proposal.arm, make)


def by_rung(
    contents: ArchiveContents, standings: Sequence[Standing], *, parents: OverParents, noise: Noise, confidence: float
) -> tuple[Group, ...]:
    """One group per rung that asked for programs, in the order of their first proposal."""
    make = partial(_group, parents=parents, noise=noise, confidence=confidence)
    return _groups(contents.tries, standings, lambda row: row.rung, lambda tried: tried.proposal.rung, make)


def _groups(
    tries: Sequence[SlotTry],
    standings: Sequence[Standing],
    label_of: Callable[[Standing], str],
    label_of_try: Callable[[SlotTry], str],
    make: Callable[[str, Sequence[SlotTry], Sequence[Standing]], Group],
) -> tuple[Group, ...]:
    tries = [tried for tried in tries if tried.proposal.arm != "baseline"]  # given, not proposed
    labels = list(dict.fromkeys(label_of_try(tried) for tried in tries))
    return tuple(
        make(
            label,
            [tried for tried in tries if label_of_try(tried) == label],
            [row for row in standings if row.arm != "baseline" and label_of(row) == label],
        )
        for label in labels
    )


def _group(
    label: str,
    tries: Sequence[SlotTry],
    rows: Sequence[Standing],
    *,
    parents: OverParents,
    noise: Noise,
    confidence: float,
) -> Group:
    compared = [parents[row.candidate_id] for row in rows if row.candidate_id in parents]
    measured = [row for row in rows if row.verdict != "not_measured"]
    improvement, low, high = _mean_improvement(measured, noise, confidence)

    def share(count: int, total: int) -> Share:
        return share_of(count, total, confidence)

    return Group(
        label=label,
        asked=len(tries),
        rendered=share(sum(bool(tried.proposal.program) for tried in tries), len(tries)),
        admitted=share(sum(tried.candidate is not None for tried in tries), len(tries)),
        trained=share(sum(row.n > 0 for row in rows), len(tries)),
        better=share(sum(row.verdict == "better" for row in measured), len(measured)),
        over_parent=share(sum(one.low > 0 for one in compared), len(compared)),
        improvement=improvement,
        low=low,
        high=high,
    )


def _mean_improvement(rows: Sequence[Standing], noise: Noise, confidence: float) -> tuple[float, float, float]:
    """Mean over programs and its interval: their spread, plus the error of the reference that all of them share.

    Degrees of freedom after Welch and Satterthwaite. One program alone keeps its own interval.
    """
    if not rows:
        return math.nan, math.nan, math.nan
    if len(rows) == 1:
        return rows[0].improvement, rows[0].low, rows[0].high
    values = np.array([row.improvement for row in rows])
    if noise.df < 1:
        return float(values.mean()), math.nan, math.nan
    spread = float(values.var(ddof=1)) / len(values)
    shared = noise.sd**2 / float(np.median([row.n for row in rows]))
    total = spread + shared
    df = total**2 / (spread**2 / (len(values) - 1) + shared**2 / noise.df)
    mean = float(values.mean())
    return mean, *t_interval(mean, math.sqrt(total), df, confidence)

"""What the agents said, counted: how much of the Analyst's words stood, and how well the Judge knows programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from arch_search.analysis.text import count, interval, number, signed
from arch_search.selection.agreement import MIN_COUNT, Agreement
from cognition_db.records import Lesson


@dataclass(frozen=True, slots=True, kw_only=True)
class PairMarks:
    """The Judge's scores of two programs of which one is known to be better; None where no reply was of the form.

    `first`: which of them was asked first, the other then in the same conversation; "alone": each in its own call.
    """

    pair: str
    first: Literal["better", "worse", "alone"]
    better: float | None
    worse: float | None

    @property
    def is_right(self) -> bool:
        """Equal marks do not tell the two apart."""
        return self.better is not None and self.worse is not None and self.better > self.worse


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Marks of one model for all known pairs, in both orders."""

    model: str
    marks: tuple[PairMarks, ...]

    @property
    def alone(self) -> tuple[PairMarks, ...]:
        """The marks that each program got when it was asked first: a second one may get a copy of the first one's."""
        first = {(one.pair, one.first): one for one in self.marks}
        return tuple(
            PairMarks(pair=pair, first="alone", better=one.better, worse=first[pair, "worse"].worse)
            for (pair, order), one in first.items()
            if order == "better" and (pair, "worse") in first
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRecord:
    """How the Judge marked known programs: at the start, and one pair beside each generation."""

    calibrations: tuple[Calibration, ...] = ()
    canaries: tuple[PairMarks, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalystCounts:
    """Lessons that a model was asked for and what became of its words."""

    answered: int  # replies of the asked form
    kept: int  # lessons that did not contradict the computed outcome
    components: int
    triggers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinions:
    """All of it, and the weight that the Judge's marks have in the ranking of this campaign."""

    analyst: AnalystCounts
    judge: JudgeRecord
    agreement: Agreement
    weight: float


def analyst_counts(lessons: Sequence[Lesson]) -> AnalystCounts:
    answered = [lesson for lesson in lessons if lesson.reply_sha256]
    said = [lesson.analysis for lesson in answered if lesson.analysis is not None]
    return AnalystCounts(
        answered=len(answered),
        kept=sum(bool(lesson.text) for lesson in answered),
        components=sum(bool(one.component) for one in said),
        triggers=sum(bool(one.trigger) for one in said),
    )


def opinion_sentences(opinions: Opinions) -> tuple[str, ...]:
    """The section of the report; empty where no agent was asked for an opinion."""
    sentences = [_analyst(opinions.analyst)]
    sentences += [
        f"Before it marked anything {one.model} was shown pairs of programs of which one is known to be better, in "
        f"both orders: {_right(one.marks)}. By the marks of each program alone: {_right(one.alone)}."
        for one in opinions.judge.calibrations
    ]
    if opinions.judge.canaries:
        sentences.append(f"Beside each generation it marked one such pair as well: {_right(opinions.judge.canaries)}.")
    if opinions.agreement.count:
        sentences.append(f"{_agreement(opinions.agreement)} Their weight in the ranking is {number(opinions.weight)}.")
    return tuple(sentence for sentence in sentences if sentence)


def _analyst(counts: AnalystCounts) -> str:
    if not counts.answered:
        return ""
    return (
        f"The Analyst answered for {count(counts.answered, 'program')}: {count(counts.kept, 'lesson')}, "
        f"{count(counts.components, 'blamed part')} and {count(counts.triggers, 'symptom')} were kept; what "
        "contradicted the computed outcome, named a number that was not given or said nothing was dropped."
    )


def _right(marks: Sequence[PairMarks]) -> str:
    right = sum(one.is_right for one in marks)
    alike = sum(one.better is not None and one.better == one.worse for one in marks)
    missing = sum(one.better is None or one.worse is None for one in marks)
    rest = f" ({alike} with equal marks, {missing} without marks)" if alike or missing else ""
    return f"of {count(len(marks), 'comparison')} right: {right}{rest}"


def _agreement(agreed: Agreement) -> str:
    if not math.isfinite(agreed.correlation):
        return (
            f"Its marks and what was measured have no correlation over {count(agreed.count, 'program')}: "
            "there are fewer than four, or all are alike."
        )
    few = f"; below {MIN_COUNT} programs that earns no weight" if agreed.count < MIN_COUNT else ""
    return (
        f"The rank correlation of its marks with measured improvements is {signed(agreed.correlation)} "
        f"{interval(agreed.low, agreed.high)} at 90 % over {count(agreed.count, 'program')}{few}."
    )

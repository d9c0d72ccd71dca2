"""The section on what the agents said: counts of their words, and how well the Judge knew programs."""

from __future__ import annotations

from arch_search.analysis.opinions import (
    Calibration,
    JudgeRecord,
    Opinions,
    PairMarks,
    analyst_counts,
    opinion_sentences,
)
from arch_search.analysis.report import render
from arch_search.selection.agreement import Agreement
from cognition_db.records import Analysis, Lesson

NOBODY = Opinions(analyst=analyst_counts(()), judge=JudgeRecord(), agreement=Agreement(count=0), weight=0.0)


def lesson(text: str = "", *, asked: bool = True, component: str = "", trigger: str = "") -> Lesson:
    return Lesson(
        candidate_id="a", generation=1, outcome="worse", difference=-0.1, text=text, reply_sha256="f" if asked else "",
        analysis=Analysis(component=component, trigger=trigger) if asked else None,
    )  # fmt: skip


def test_what_the_analyst_said_is_counted_by_what_was_kept() -> None:
    counts = analyst_counts(
        [lesson("Keep it.", component="decay", trigger="t"), lesson("", component="mix"), lesson(asked=False)]
    )
    assert (counts.answered, counts.kept, counts.components, counts.triggers) == (2, 1, 2, 1)


def test_the_report_says_how_the_judge_did_and_what_its_marks_weigh(invent, facts_of) -> None:
    marks = (
        PairMarks(pair="p", first="better", better=6.0, worse=4.0),
        PairMarks(pair="p", first="worse", better=5.0, worse=5.0),
        PairMarks(pair="q", first="better", better=None, worse=5.0),
    )
    opinions = Opinions(
        analyst=analyst_counts([lesson("Keep it.")]),
        judge=JudgeRecord(calibrations=(Calibration(model="m-1.5b", marks=marks),), canaries=marks[:1]),
        agreement=Agreement(count=24, correlation=0.5, low=0.18, high=0.72),
        weight=0.06,
    )
    words = " ".join(opinion_sentences(opinions))
    assert "of 3 comparisons right: 1 (1 with equal marks, 1 without marks)" in words
    assert "By the marks of each program alone: of 1 comparison right: 1." in words
    assert "it marked one such pair as well: of 1 comparison right: 1." in words
    assert "+0.500 [+0.180, +0.720] at 90 % over 24 programs. Their weight in the ranking is 0.060." in words
    contents = invent()
    page = render(contents, facts=facts_of(contents, opinions=opinions))
    assert "What the agents said" in page
    assert "m-1.5b was shown pairs of programs" in page


def test_where_nobody_was_asked_the_report_has_no_such_section(invent, facts_of) -> None:
    contents = invent()
    assert opinion_sentences(NOBODY) == ()
    assert "What the agents said" not in render(contents, facts=facts_of(contents, opinions=NOBODY))


def test_marks_that_are_all_alike_have_no_correlation_and_few_earn_nothing() -> None:
    alike = Opinions(analyst=analyst_counts(()), judge=JudgeRecord(), agreement=Agreement(count=30), weight=0.0)
    assert "no correlation over 30 programs" in opinion_sentences(alike)[0]
    few = Agreement(count=9, correlation=0.9, low=0.6, high=0.97)
    said = opinion_sentences(Opinions(analyst=analyst_counts(()), judge=JudgeRecord(), agreement=few, weight=0.0))
    assert "below 20 programs that earns no weight" in said[0]

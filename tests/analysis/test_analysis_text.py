from __future__ import annotations

import math

import pytest

from arch_search.analysis import text
from arch_search.analysis.lessons import computed_lesson, numbers_for_analyst
from arch_search.analysis.relatives import Measured
from arch_search.analysis.show import find_candidate, show_text
from arch_search.analysis.statistics import standings
from arch_search.analysis.svg import Scale
from arch_search.errors import CampaignError
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Analysis, Lesson

HOW = {"metric": "recall_accuracy", "confidence": 0.95}


@pytest.mark.parametrize(
    ("value", "words"), [(0.5, "+0.500"), (-0.25, "−0.250"), (-0.0001, "+0.000"), (math.nan, "–"), (None, "–")]
)
def test_signed_numbers_read_well(value, words):
    assert text.signed(value) == words


def test_short_counts_wide_characters_twice_and_never_exceeds_its_columns():
    assert text.short("a b\n c", 10) == "a b c"
    assert text.short("abcdefgh", 5) == "abcd…"
    assert text.short("漢字漢字漢字", 6) == "漢字…"


def test_a_sparkline_falls_with_the_loss_and_leaves_gaps_for_nan():
    line = text.sparkline([5.0, math.nan, 3.0, 1.0])
    assert line[0] == "█"
    assert line[1] == " "
    assert line[-1] == "▁"
    assert text.sparkline([]) == ""
    assert len(text.sparkline(list(range(500)))) == 40


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.013, 0.0021), (3.0, 5000.0), (-1e-6, 1e-6)])
def test_ticks_lie_inside_the_scale_and_are_few(low, high):
    scale = Scale(low=low, high=high, start=0, end=100)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert len({scale.label(tick) for tick in ticks}) == len(ticks)


def test_a_value_outside_the_scale_is_drawn_at_its_edge():
    assert Scale(low=0, high=1, start=10, end=20)(7.0) == 20


def test_the_analyst_gets_candidate_parent_siblings_and_reference_with_the_computed_verdict(invent):
    contents = invent(generations=3, slots=12)
    reference = contents.candidates[0]
    child = next(row for row in contents.candidates if row.generation == 3 and row.parents != (reference.id,))
    words = numbers_for_analyst(Measured.of(contents, reference_id=reference.id, **HOW), child)
    roles = [line.split(":")[0] for line in words.splitlines()[1:]]
    assert roles[0] == "candidate"
    assert "parent" in roles
    assert roles[-1] == "reference"
    assert child.name in words
    assert "beyond noise" in words or "not measured" in words


def test_the_computed_lesson_has_the_verdict_of_the_statistics_and_no_words(invent):
    contents = invent(noise=0.002, gain=0.08)
    reference = contents.candidates[0]
    rows = standings(contents, reference_id=reference.id, **HOW)
    best = next(row for row in rows if row.verdict == "better" and row.arm == "evolve")
    lesson = computed_lesson(
        Measured.of(contents, reference_id=reference.id, **HOW), contents.candidate(best.candidate_id)
    )
    assert (lesson.outcome, lesson.difference, lesson.text) == ("better", best.improvement, "")


def test_show_tells_lineage_checks_runs_and_program(invent):
    contents = invent(generations=3, slots=12)
    reference = contents.candidates[0]
    child = next(row for row in contents.candidates if row.generation == 3 and row.parents != (reference.id,))
    shown = show_text(contents, child, reference_id=reference.id, **HOW)
    assert f"parent {child.parents[0]}" in shown
    assert f"parent {reference.id}" in shown
    assert "causality" in shown
    assert "seed 0: recall_accuracy" in shown
    assert child.program.strip() in shown


def test_show_tells_what_the_analyst_blames_and_the_marks_of_the_judge(candidate_of, run_of):
    row = candidate_of("gate")
    said = Analysis(component="output gate", confidence=0.6, trigger="recall is flat", effectiveness=3, novelty=2)
    lesson = Lesson(candidate_id=row.id, generation=1, outcome="worse", difference=-0.1, text="Drop it.", analysis=said)
    contents = ArchiveContents(candidates=(row,), evaluations=(run_of(row, 0, recall=0.5),), lessons=(lesson,))
    shown = show_text(contents, row, reference_id=row.id, **HOW)
    assert "the Analyst blames output gate (confidence 0.60)" in shown
    assert "symptom: recall is flat" in shown
    assert "marks of the Judge: effectiveness 3, novelty 2, complexity 0" in shown


def test_show_keeps_control_characters_from_the_terminal(candidate_of, run_of):
    row = candidate_of("nasty \x1b]0;title\x07 name", motivation="\x1b[2J")
    contents = ArchiveContents(candidates=(row,), evaluations=(run_of(row, 0, recall=0.5),))
    shown = show_text(contents, row, reference_id=row.id, **HOW)
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_a_candidate_is_found_by_the_first_digits_of_its_id(invent):
    contents = invent()
    row = contents.candidates[3]
    assert find_candidate(contents, row.id[:10]) == row
    assert find_candidate(contents, row.name) == row


@pytest.mark.parametrize("prefix", ["", "zzzz"])
def test_an_unknown_candidate_is_one_clear_line(invent, prefix):
    with pytest.raises(CampaignError, match="no candidate"):
        find_candidate(invent(), prefix)


def test_an_ambiguous_name_lists_the_candidates(candidate_of):
    contents = ArchiveContents(candidates=(candidate_of("same", slot=1), candidate_of("same", slot=2)))
    with pytest.raises(CampaignError, match="fits 2 candidates"):
        find_candidate(contents, "same")

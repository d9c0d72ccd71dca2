"""fsck on values: a sound archive has no problem, and every broken invariant is found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cognition_db.experience.archive import ArchiveContents
from cognition_db.experience.fsck import ACKNOWLEDGED, acknowledgement, check_against_merge, check_records
from cognition_db.experience.journal import Entry
from cognition_db.records import Evaluation, Score

Make = Callable[[], ArchiveContents]


def entries(*evaluations: Evaluation, generation: int = 0) -> list[Entry]:
    acknowledgements = [acknowledgement(evaluation, generation=generation) for evaluation in evaluations]
    return [Entry(seq=1, unix=0.0, kind=ACKNOWLEDGED, data=data) for data in acknowledgements]


def first(contents: ArchiveContents, name: str, **fields: Any) -> ArchiveContents:
    """The contents with fields of the first record of one kind replaced."""
    records = getattr(contents, name)
    return replace(contents, **{name: (replace(records[0], **fields), *records[1:])})


def drop(contents: ArchiveContents, name: str) -> ArchiveContents:
    return replace(contents, **{name: getattr(contents, name)[1:]})


def repeat(contents: ArchiveContents, name: str) -> ArchiveContents:
    records = getattr(contents, name)
    return replace(contents, **{name: (*records, records[0])})


BROKEN: dict[str, Callable[[ArchiveContents], ArchiveContents]] = {
    "its program has id": lambda c: first(c, "candidates", program="class Other: pass"),
    "exists 2 times": lambda c: repeat(c, "candidates"),
    "exists 2 times ": lambda c: repeat(c, "tries"),
    "exists 2 times  ": lambda c: repeat(c, "evaluations"),
    "exists 2 times   ": lambda c: repeat(c, "lessons"),
    "does not exist": lambda c: drop(c, "candidates"),
    "is of the later generation 9": lambda c: first(c, "candidates", generation=9),
    "no verdict that refuses it": lambda c: replace(c, tries=(c.tries[0], replace(c.tries[1], verdicts=()))),
    "although a verdict refuses it": lambda c: first(c, "tries", verdicts=c.tries[1].verdicts),
    "is missing or differs": lambda c: replace(c, candidates=(c.candidates[0], replace(c.candidates[1], name="new"))),
    "another program than the proposal": lambda c: first(c, "tries", proposal=replace(c.tries[0].proposal, program="")),
    "no try was admitted": lambda c: drop(c, "tries"),
    "its candidate does not exist": lambda c: first(
        c, "evaluations", task=replace(c.evaluations[0].task, candidate_id="00")
    ),
    "its candidate does not exist ": lambda c: first(c, "lessons", candidate_id="00"),
    "not its candidate's": lambda c: first(c, "evaluations", program_sha256="ff" * 32),
    "2 steps and 3 losses": lambda c: first(c, "evaluations", curve_steps=(1, 2)),
    "without a cause": lambda c: first(c, "evaluations", ending="crashed"),
    "has the cause 'killed'": lambda c: first(c, "evaluations", cause="killed"),
    "finished with recall=nan": lambda c: first(
        c, "evaluations", scores=(Score(name="recall", value=float("nan"), count=1, unit="fraction"),)
    ),
}


def test_a_sound_archive_has_no_problem(make_contents: Make) -> None:
    contents = make_contents()
    assert check_records(contents, entries(*contents.evaluations), closed_generation=0) == []
    assert check_against_merge(contents, contents.evaluations) == []


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_invariant_is_found(make_contents: Make, what: str) -> None:
    problems = check_records(BROKEN[what](make_contents()), [], closed_generation=-1)
    assert any(what.strip() in problem.what for problem in problems), problems


def test_a_non_finite_score_of_an_unfinished_run_is_no_problem(make_contents: Make) -> None:
    score = Score(name="recall", value=float("nan"), count=0, unit="fraction")
    contents = first(make_contents(), "evaluations", ending="non_finite", cause="loss is nan", scores=(score,))
    assert check_records(contents, [], closed_generation=-1) == []


def test_a_lost_and_a_changed_acknowledged_evaluation_are_found(make_contents: Make) -> None:
    contents = make_contents()
    journal = entries(*contents.evaluations, generation=1)
    lost = check_records(drop(contents, "evaluations"), journal, closed_generation=1)
    assert [problem.what for problem in lost] == ["is in the journal, but not in the archive"]
    changed = check_records(first(contents, "evaluations", wall_s=1.0), journal, closed_generation=1)
    assert [problem.what.split(":")[0] for problem in changed] == ["differs from the journal"]


def test_acknowledgements_of_an_open_generation_do_not_count_yet(make_contents: Make) -> None:
    contents = make_contents()
    journal = entries(*contents.evaluations, generation=2)
    assert check_records(drop(contents, "evaluations"), journal, closed_generation=1) == []


def test_an_archive_that_differs_from_its_shards_is_found(make_contents: Make) -> None:
    contents = make_contents()
    lost, changed, unknown = contents.evaluations[:3]
    merged = [lost, replace(changed, wall_s=1.0), contents.evaluations[3]]
    problems = check_against_merge(drop(contents, "evaluations"), merged)
    assert {(problem.where.split()[1], problem.what.split(":")[0]) for problem in problems} == {
        (lost.task.key, "is in the shards, but not in the archive"),
        (changed.task.key, "differs from the shards"),
        (unknown.task.key, "is in the archive, but not in the shards"),
    }

"""What is drawn for a try: the lesson on its parent leads to insights, and the control knows of none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arch_search.analysis.statistics import Verdict
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.drawing import Drawn, draw
from arch_search.generation import SlotPlan
from arch_search.settings import load_config
from cognition_db.experience.archive import ArchiveContents
from cognition_db.literature import load_insights, retrieve
from cognition_db.records import Analysis, Arm, Candidate, Lesson, Rung, candidate_id

LESSON = "Stale content stays in the memory after a change of topic; the delta rule alone does not clear it."
CONFIG = load_config(["campaign=smoke"])
REFERENCE = Candidate(
    id=candidate_id(SEED_PROGRAM), program=SEED_PROGRAM, class_name="DeltaNet", name="deltanet", arm="baseline",
    rung="copy", generation=0, slot=0, parents=(), motivation="", parameter_count=1,
)  # fmt: skip


TRIGGER = "recall collapses once more keys are written than the state has dimensions"


def told(text: str = "", *, trigger: str = "", outcome: Verdict = "within_noise") -> Lesson:
    return Lesson(
        candidate_id=REFERENCE.id, generation=0, outcome=outcome, difference=0.0, text=text,
        analysis=Analysis(component="decay", confidence=0.5, trigger=trigger),
    )  # fmt: skip


def drawn(arm: Arm, *, lesson: Lesson | None, attempt: int, rung: Rung = "whole_module") -> Drawn:
    contents = ArchiveContents(candidates=(REFERENCE,), lessons=(lesson,) if lesson else ())
    plan = SlotPlan(0, arm, rung)
    return draw(1, plan, attempt, config=CONFIG, contents=contents, choices=(), reference=REFERENCE)


def insights_drawn(arm: Arm, lesson: Lesson | None) -> set[str]:
    found = [drawn(arm, lesson=lesson, attempt=attempt).assignment for attempt in range(60)]
    return {one.insight.id for one in found if one is not None and one.insight is not None}


def near(query: str) -> set[str]:
    return {insight.id for insight in retrieve(query, load_insights(), 8)}


def test_the_lesson_on_the_parent_leads_to_insights_near_to_it() -> None:
    assert insights_drawn("evolve", told(LESSON)) == near(LESSON)
    assert len(insights_drawn("evolve", None)) > 20


def test_the_symptom_that_the_analyst_names_is_part_of_the_query() -> None:
    assert near(f"{TRIGGER} {LESSON}") != near(LESSON)
    assert insights_drawn("evolve", told(LESSON, trigger=TRIGGER)) == near(f"{TRIGGER} {LESSON}")


def test_a_parent_of_which_nothing_was_said_is_looked_up_by_its_computed_outcome() -> None:
    query = "recall accuracy not different from the reference beyond noise; changed: the whole program"
    assert insights_drawn("evolve", told()) == near(query)
    assert len(insights_drawn("evolve", told(outcome="not_measured"))) > 20


def test_the_control_draws_as_if_nothing_had_been_learned() -> None:
    assert insights_drawn("best_of_n", told(LESSON, trigger=TRIGGER)) == insights_drawn("best_of_n", None)
    assert len(insights_drawn("best_of_n", None)) > 20


@pytest.mark.parametrize("arm", ["evolve", "best_of_n"])
def test_the_same_try_is_drawn_the_same_way_again(arm: Arm) -> None:
    one = drawn(arm, lesson=told(LESSON), attempt=3)
    assert one == drawn(arm, lesson=told(LESSON), attempt=3)
    assert one.parent == replace(REFERENCE)

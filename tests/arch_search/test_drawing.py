"""What is drawn for a try: the lesson on its parent leads to insights, and the control knows of none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.drawing import Drawn, draw
from arch_search.generation import SlotPlan
from arch_search.settings import load_config
from cognition_db.experience.archive import ArchiveContents
from cognition_db.literature import load_insights, retrieve
from cognition_db.records import Arm, Candidate, Lesson, Rung, candidate_id

LESSON = "Stale content stays in the memory after a change of topic; the delta rule alone does not clear it."
CONFIG = load_config(["campaign=smoke"])
REFERENCE = Candidate(
    id=candidate_id(SEED_PROGRAM), program=SEED_PROGRAM, class_name="DeltaNet", name="deltanet", arm="baseline",
    rung="copy", generation=0, slot=0, parents=(), motivation="", parameter_count=1,
)  # fmt: skip


def drawn(arm: Arm, *, lesson: str, attempt: int, rung: Rung = "whole_module") -> Drawn:
    told = Lesson(candidate_id=REFERENCE.id, generation=0, outcome="within_noise", difference=0.0, text=lesson)
    contents = ArchiveContents(candidates=(REFERENCE,), lessons=(told,))
    plan = SlotPlan(0, arm, rung)
    return draw(1, plan, attempt, config=CONFIG, contents=contents, choices=(), reference=REFERENCE)


def insights_drawn(arm: Arm, lesson: str) -> set[str]:
    found = [drawn(arm, lesson=lesson, attempt=attempt).assignment for attempt in range(60)]
    return {one.insight.id for one in found if one is not None and one.insight is not None}


def test_the_lesson_on_the_parent_leads_to_insights_near_to_it() -> None:
    near = {insight.id for insight in retrieve(LESSON, load_insights(), 8)}
    assert insights_drawn("evolve", LESSON) == near
    assert len(insights_drawn("evolve", "")) > 20


def test_the_control_draws_as_if_nothing_had_been_learned() -> None:
    assert insights_drawn("best_of_n", LESSON) == insights_drawn("best_of_n", "")
    assert len(insights_drawn("best_of_n", LESSON)) > 20


@pytest.mark.parametrize("arm", ["evolve", "best_of_n"])
def test_the_same_try_is_drawn_the_same_way_again(arm: Arm) -> None:
    one = drawn(arm, lesson=LESSON, attempt=3)
    assert one == drawn(arm, lesson=LESSON, attempt=3)
    assert one.parent == replace(REFERENCE)

"""What is drawn for a try: the lesson on its parent leads to insights, and the control knows of none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from arch_search.analysis.statistics import Verdict
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.drawing import Drawn, Nearness, draw, with_rungs
from arch_search.errors import ProposalError
from arch_search.generation import OpenSlots, SlotPlan, next_round, open_slots, plans_of, slot_plans
from arch_search.proposals import mutation
from arch_search.proposals.crossover import crossings
from arch_search.proposals.registry import BUILT_IN
from arch_search.selection.pool import ParentChoice
from arch_search.settings import load_config
from arch_search.steering import Steering
from arch_search.writing import draft_without_model
from cognition_db.experience.archive import ArchiveContents
from cognition_db.literature import load_insights, retrieve
from cognition_db.records import Analysis, Arm, Candidate, Insight, Lesson, Proposal, Rung, SlotTry, candidate_id

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


def drawn(
    arm: Arm, *, lesson: Lesson | None, attempt: int, rung: Rung = "whole_module", nearness: Nearness | None = None
) -> Drawn:
    contents = ArchiveContents(candidates=(REFERENCE,), lessons=(lesson,) if lesson else ())
    plan = SlotPlan(0, arm, rung)
    return draw(
        1,
        plan,
        attempt,
        config=CONFIG,
        contents=contents,
        choices=(),
        reference=REFERENCE,
        steering=Steering(),
        toolbox=BUILT_IN,
        nearness=nearness,
    )


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


# ---- rungs without a model


def mutated(number: int, parent: Candidate, *, steps: int = 1) -> Candidate:
    """A child of `parent` by random changes of two hooks or more."""
    program = parent.program
    for step in range(steps):
        one = replace(parent, program=program, id=candidate_id(program))
        program = mutation.mutate(one, np.random.default_rng([number, step]), BUILT_IN).program
    return replace(
        parent, id=candidate_id(program), program=program, arm="mutate", generation=1, slot=number,
        parents=(parent.id,), name=f"mutated {number}",
    )  # fmt: skip


def test_an_embedding_model_is_asked_what_is_near_only_where_something_was_observed() -> None:
    asked: list[str] = []

    def nearness(observed: str, insights: Sequence[Insight]) -> Mapping[str, float]:
        asked.append(observed)
        farthest_by_words_first = enumerate(retrieve(observed, insights, len(insights)))
        return {one.id: float(rank) for rank, one in farthest_by_words_first}

    found = [drawn("evolve", lesson=told(LESSON), attempt=n, nearness=nearness).assignment for n in range(60)]
    both = {one.insight.id for one in found if one and one.insight}
    words = insights_drawn("evolve", told(LESSON))
    assert both & words
    assert both - words
    assert set(asked) == {LESSON}
    asked.clear()
    drawn("best_of_n", lesson=told(LESSON), attempt=0, nearness=nearness)
    drawn("evolve", lesson=None, attempt=0, nearness=nearness)
    assert asked == []


def drawn_without_model(rung: Rung, measured: Sequence[Candidate], chosen: Sequence[Candidate]) -> Drawn:
    contents = ArchiveContents(candidates=(REFERENCE, *measured))
    choices = [ParentChoice(parent=one, references=()) for one in chosen]
    return draw(
        2,
        SlotPlan(0, "evolve", rung),
        0,
        config=CONFIG,
        contents=contents,
        choices=choices,
        reference=REFERENCE,
        steering=Steering(),
        toolbox=BUILT_IN,
    )


def test_the_second_parent_of_a_crossing_is_of_another_lineage_where_there_is_one() -> None:
    first, other = mutated(1, REFERENCE, steps=3), mutated(2, REFERENCE, steps=3)
    child, grandchild = mutated(3, first, steps=3), mutated(4, mutated(3, first, steps=3), steps=3)
    measured = (first, other, child, grandchild)
    drawn = drawn_without_model("crossover", measured, [grandchild, REFERENCE, first, child, other])
    assert drawn.parents == (grandchild.id, other.id)
    assert drawn.assignment is None
    drawn = drawn_without_model("crossover", measured, [REFERENCE, grandchild, grandchild, first, child])
    assert drawn.parents == (grandchild.id, first.id)


def test_who_gives_no_new_crossing_is_not_the_second_parent() -> None:
    first, other, third = (mutated(number, REFERENCE, steps=3) for number in (1, 2, 5))
    made = [one.program for one in crossings(first, other, (), BUILT_IN)]
    children = [replace(other, id=candidate_id(program), program=program) for program in made]
    choices = [first, other, third]
    assert drawn_without_model("crossover", (first, other, third), choices).parents == (first.id, other.id)
    assert drawn_without_model("crossover", (first, other, third, *children), choices).parents == (first.id, third.id)


@pytest.mark.parametrize("rung", ["crossover", "simplify"])
def test_rungs_without_a_model_start_from_a_measured_program_of_the_toolbox(rung: Rung) -> None:
    evolved = mutated(1, REFERENCE)
    free = replace(evolved, id="free", program=evolved.program + "\n\ndef helper() -> None:\n    return None\n")
    assert drawn_without_model(rung, (evolved, free), [REFERENCE, free, evolved]).parent == evolved


@pytest.mark.parametrize(
    ("rung", "reason"), [("crossover", "has nobody to be crossed with"), ("simplify", "has no component to take away")]
)
def test_before_anything_was_measured_they_have_nothing_to_do(rung: Rung, reason: str) -> None:
    drawn = drawn_without_model(rung, (), [])
    assert drawn.parents == (REFERENCE.id,)
    with pytest.raises(ProposalError, match=f"parent {REFERENCE.id} {reason}"):
        draft_without_model(drawn, REFERENCE, REFERENCE, contents=ArchiveContents(), banned=(), toolbox=BUILT_IN)


def test_only_slots_on_which_a_model_writes_ask_for_one() -> None:
    without = [f"campaign.slots.{rung}=0" for rung in ("grammar_edit", "grammar_program", "toolbox_program")]
    plans = slot_plans(load_config([*without, "campaign.slots.crossover=1", "campaign.slots.simplify=1"]))
    assert {plan.rung for plan in plans} == {"crossover", "simplify", "mutation", "copy"}
    assert not any(plan.asks_model for plan in plans)
    plans = slot_plans(load_config(["campaign.slots.crossover=1", "campaign.slots.best_of_n=5"]))
    assert [plan.rung for plan in plans if plan.arm == "best_of_n"] == [
        "grammar_edit", "grammar_edit", "grammar_program", "toolbox_program", "grammar_edit",
    ]  # fmt: skip
    assert all(plan.asks_model for plan in plans if plan.arm == "best_of_n")


def test_what_a_kill_left_of_a_round_is_tried_before_the_next_round() -> None:
    """Of three slots the first was tried and refused when the driver was killed."""
    config = load_config(["campaign=smoke", "campaign.slots.placebo=0"])
    proposal = Proposal(generation=1, slot=0, attempt=0, arm="evolve", rung="grammar_edit", parents=(), seed=1)
    tries = [SlotTry(proposal=proposal, verdicts=(), candidate=None)]
    wanting = open_slots(1, tries, config, Steering())
    assert [(plan.slot, attempt) for plan, attempt in wanting] == [(0, 1), (1, 0), (2, 0)]
    assert [(plan.slot, attempt) for plan, attempt in next_round(wanting)] == [(1, 0), (2, 0)]
    tries += [replace(tries[0], proposal=replace(proposal, slot=slot)) for slot in (1, 2)]
    assert [attempt for _, attempt in next_round(open_slots(1, tries, config, Steering()))] == [1, 1, 1]
    assert next_round(()) == ()


# ---- the ladder

CLIMBING = load_config(["campaign=smoke", "campaign.slots.ladder=3", "campaign.slots.best_of_n=8"])


def refused(slot: int, attempt: int, rung: Rung) -> SlotTry:
    proposal = Proposal(
        generation=1, slot=slot, attempt=attempt, arm="evolve", rung=rung, parents=(REFERENCE.id,), seed=1
    )
    return SlotTry(proposal=proposal, verdicts=(), candidate=None)


def rungs_drawn(wanting: OpenSlots, *tries: SlotTry, closed: tuple[str, ...] = ()) -> dict[int, Rung | None]:
    contents = ArchiveContents(candidates=(REFERENCE,))
    drawn = with_rungs(
        1,
        wanting,
        config=CLIMBING,
        contents=contents,
        tries=tries,
        reference=REFERENCE,
        steering=Steering(closed_rungs=closed),
    )
    return {plan.slot: plan.rung for plan, _ in drawn}


def round_of(attempt: int) -> OpenSlots:
    return tuple((plan, attempt) for plan in slot_plans(CLIMBING))


def test_a_slot_of_the_ladder_has_a_rung_once_its_try_is_drawn_and_the_others_keep_theirs() -> None:
    plans = slot_plans(CLIMBING)
    assert [plan.slot for plan in plans if plan.rung is None and plan.arm == "evolve"] == [2, 3, 4]
    assert all(plan.asks_model for plan in plans if plan.rung is None)
    drawn = rungs_drawn(round_of(0))
    assert [drawn[slot] for slot in (2, 3, 4)] == ["grammar_edit", "grammar_program", "toolbox_program"]
    assert all(drawn[plan.slot] == plan.rung for plan in plans if plan.rung is not None)
    drawn = draw(
        1, replace(plans[2], rung="toolbox_program"), 0,
        config=CLIMBING, contents=ArchiveContents(), choices=(), reference=REFERENCE,
        steering=Steering(), toolbox=BUILT_IN,
    )  # fmt: skip
    assert drawn.assignment is not None
    assert drawn.assignment.rung == "toolbox_program"


def test_a_control_is_asked_for_the_form_that_the_ladder_drew_for_the_slot_of_the_same_index() -> None:
    controls = [plan.slot for plan in slot_plans(CLIMBING) if plan.arm == "best_of_n"]
    for attempt in range(3):
        drawn = rungs_drawn(round_of(attempt))
        evolved = [drawn[slot] for slot in range(5)]
        assert [drawn[slot] for slot in controls] == [*evolved, *evolved[:3]]


def test_what_the_ladder_draws_does_not_depend_on_what_else_of_the_round_is_on_disk() -> None:
    """A driver that was killed in a round finds some of its tries recorded; they are no reason to draw otherwise."""
    earlier = [
        refused(slot, 0, rung) for slot, rung in ((2, "grammar_edit"), (3, "grammar_edit"), (4, "method_splice"))
    ]
    whole = rungs_drawn(round_of(1), *earlier)
    after_kill = rungs_drawn(
        round_of(1)[3:], *earlier, refused(2, 1, "grammar_program"), refused(3, 1, "method_splice")
    )
    assert after_kill == {slot: rung for slot, rung in whole.items() if slot >= 3}
    assert whole != rungs_drawn(round_of(1))  # what came before the round does count


def test_a_closed_rung_is_not_drawn_and_a_slot_of_the_ladder_closes_with_the_last_of_its_rungs() -> None:
    drawn = rungs_drawn(round_of(0), closed=("grammar_edit", "toolbox_program"))
    assert [drawn[slot] for slot in (2, 3, 4)] == ["grammar_program", "method_splice", "grammar_program"]
    ladder = slot_plans(CLIMBING)[2]
    assert ladder in plans_of(1, CLIMBING, Steering(closed_rungs=ladder.rungs(CLIMBING)[1:]))
    assert ladder not in plans_of(1, CLIMBING, Steering(closed_rungs=ladder.rungs(CLIMBING)))

"""Three levels of novelty in slot order: same text, near in text, same behaviour."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.memory import Known, distinct, near_duplicate
from arch_search.settings import load_config
from cognition_db.records import Arm, Candidate, Proposal, SlotTry, candidate_id

ADMISSION = load_config(["campaign=smoke"]).admission


def tried(values: str, *, behaviour: float, arm: Arm = "evolve", slot: int = 0) -> SlotTry:
    program = SEED_PROGRAM.replace("return F.silu(v)", f"return {values}")
    proposal = Proposal(
        generation=1, slot=slot, attempt=0, arm=arm, rung="grammar_edit", parents=(), seed=1, program=program
    )
    candidate = Candidate(
        id=candidate_id(program), program=program, class_name="DeltaNet", name="c", arm=arm, rung="grammar_edit",
        generation=1, slot=slot, parents=(), motivation="", parameter_count=1, fingerprint=(1.0, behaviour),
    )  # fmt: skip
    return SlotTry(proposal=proposal, verdicts=(), candidate=candidate)


FIRST = tried("F.silu(v) * 0.5", behaviour=0.0)
KNOWN = Known()


def refusing(one: SlotTry) -> str:
    return next((verdict.check for verdict in one.verdicts if verdict.refuses), "")


@pytest.mark.parametrize(
    "values, behaviour, check",
    [
        ("0.5 * F.silu(v)", 1.0, "duplicate_text"),
        ("F.silu(v) * (1 - 0.5)", 1.0, "duplicate_text"),
        ("torch.tanh(v) + q", 1e-5, "duplicate_behaviour"),
        ("torch.tanh(v) + q", 1.0, ""),
        ("F.silu(v) * 0.25", 1.0, ""),
    ],
)
def test_a_later_slot_of_the_round_that_is_an_earlier_one_is_refused(values: str, behaviour: float, check: str) -> None:
    second = distinct(tried(values, behaviour=behaviour, slot=1), KNOWN, [FIRST], ADMISSION)
    assert refusing(second) == check
    assert (second.candidate is None) is bool(check)


@pytest.mark.parametrize("arm", ["placebo", "baseline"])
def test_copies_by_intent_may_repeat_and_are_not_marked(arm: Arm) -> None:
    copy = tried("F.silu(v) * 0.5", behaviour=0.0, arm=arm, slot=1)
    assert distinct(copy, KNOWN, [FIRST], ADMISSION) == copy


def test_a_program_by_hand_is_refused_as_a_copy_and_never_marked() -> None:
    near = tried("F.silu(v) * 0.25", behaviour=1.0, arm="hand", slot=1)
    assert distinct(near, KNOWN, [FIRST], ADMISSION) == near
    assert refusing(distinct(tried("0.5 * F.silu(v)", behaviour=1.0, arm="hand"), KNOWN, [FIRST], ADMISSION))


@pytest.mark.parametrize("arm", ["evolve", "best_of_n", "mutate"])
@pytest.mark.parametrize("values, outcome", [("F.silu(v) * 0.25", "failed"), ("torch.tanh(prev(v, 2)) + q", "passed")])
@pytest.mark.parametrize("is_of_this_round", [True, False])
def test_the_same_change_up_to_constants_is_marked_with_its_twin(
    arm: Arm, values: str, outcome: str, is_of_this_round: bool
) -> None:
    assert FIRST.candidate is not None
    known = KNOWN if is_of_this_round else KNOWN.with_candidates([FIRST.candidate])
    second = distinct(tried(values, behaviour=1.0, arm=arm), known, [FIRST] if is_of_this_round else [], ADMISSION)
    assert second.candidate is not None
    mark = next(verdict for verdict in second.candidate.verdicts if verdict.check == "near_duplicate")
    assert mark == second.verdicts[-1]
    assert (mark.outcome, mark.refuses) == (outcome, False)
    assert mark.evidence["candidate_id"] == FIRST.candidate.id


def test_above_one_nothing_is_marked() -> None:
    assert FIRST.candidate is not None
    known = KNOWN.with_candidates([FIRST.candidate])
    program = FIRST.candidate.program
    assert near_duplicate(program, known, threshold=1.0).outcome == "failed"
    assert near_duplicate(program, known, threshold=2.0).outcome == "passed"


def test_baselines_are_known_alike_before_and_after_their_generation_is_closed() -> None:
    assert FIRST.candidate is not None
    other = tried("torch.tanh(v)", behaviour=1.0, arm="baseline", slot=1).candidate
    assert other is not None
    baselines = (replace(FIRST.candidate, arm="baseline"), other)
    known = Known.of(baselines, (), failures={})
    assert list(known.normal_forms.values()) == list(known.fingerprints) == [one.id for one in baselines]
    closed = Known.of(baselines, baselines[::-1], failures={})
    assert closed == known
    assert list(closed.fingerprints) == list(known.fingerprints)


def test_placebos_are_not_known() -> None:
    assert FIRST.candidate is not None
    assert KNOWN.with_candidates([replace(FIRST.candidate, arm="placebo")]) == KNOWN

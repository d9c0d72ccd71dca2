"""Rates of the rungs, counted from tries."""

from __future__ import annotations

from arch_search.analysis.rates import RungRates, rates
from cognition_db.records import Arm, Candidate, Outcome, Proposal, Rung, SlotTry, Verdict


def tried(
    refused_by: str = "", *, rung: Rung = "grammar_edit", arm: Arm = "evolve", program: str = "text", repairs: int = 0,
    near: Outcome = "passed",
) -> SlotTry:  # fmt: skip
    proposal = Proposal(
        generation=1, slot=0, attempt=0, arm=arm, rung=rung, parents=(), seed=1, program=program, repairs=repairs
    )
    if refused_by:
        verdict = Verdict(check=refused_by, outcome="failed", reason="", refuses=True)
        return SlotTry(proposal=proposal, verdicts=(verdict,), candidate=None)
    mark = Verdict(check="near_duplicate", outcome=near, reason="")
    candidate = Candidate(
        id="c", program=program, class_name="DeltaNet", name="c", arm=arm, rung=rung, generation=1, slot=0, parents=(),
        motivation="", parameter_count=1, verdicts=(mark,),
    )  # fmt: skip
    return SlotTry(proposal=proposal, verdicts=(mark,), candidate=candidate)


def test_every_try_of_a_rung_is_counted_where_it_came_to() -> None:
    tries = [
        tried(),
        tried(),
        tried(near="failed"),
        tried(repairs=1),
        tried("program", program=""),
        tried("causality"),
        tried("duplicate_text"),
        tried("duplicate_text"),
        tried("duplicate_failure"),
        tried("duplicate_behaviour"),
    ]
    (row,) = rates(tries)
    assert row == RungRates(
        rung="grammar_edit", asked=10, parsed=9, admitted_at_once=3, admitted_after_repair=1, repeats_failure=1,
        same_text=2, same_behaviour=1, near_text=1,
    )  # fmt: skip
    assert (row.admitted, row.new) == (4, 3)


def test_rungs_come_in_the_order_of_their_first_try_and_baselines_not_at_all() -> None:
    tries = [
        tried(arm="baseline", rung="copy"),
        tried(rung="whole_module"),
        tried(rung="mutation", arm="mutate"),
        tried("cost", rung="whole_module"),
    ]
    assert [(row.rung, row.asked, row.admitted) for row in rates(tries)] == [("whole_module", 2, 1), ("mutation", 1, 1)]


def test_no_tries_have_no_rates() -> None:
    assert rates([]) == ()

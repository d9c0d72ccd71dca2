"""Replies recorded from Qwen2.5-Coder-1.5B-Instruct under vLLM: what share of each rung makes a program."""

from __future__ import annotations

import pytest

from arch_search.errors import ProposalError
from arch_search.proposals import rungs
from arch_search.proposals.assignment import Assignment


def _made(recorded, seed, rung: str) -> tuple[int, list[str]]:
    """Number of replies that became a program, and the reasons of the others."""
    made, reasons = 0, []
    for line in (one for one in recorded if one["role"] == "researcher" and one["rung"] == rung):
        try:
            rungs.program_from_reply(Assignment(rung=rung, parent=seed, method=line["method"]), line["reply"])
            made += 1
        except ProposalError as error:
            reasons.append(str(error))
    assert all("\n" not in reason for reason in reasons)
    return made, reasons


@pytest.mark.parametrize("rung", ["grammar_edit", "grammar_program"])
def test_nearly_every_recorded_grammar_reply_makes_a_program(rung, recorded, seed):
    made, reasons = _made(recorded, seed, rung)
    assert made >= 15
    assert made >= 9 * len(reasons)


@pytest.mark.parametrize("rung", ["toolbox_program", "method_splice", "whole_module"])
def test_recorded_replies_of_the_free_rungs_fail_with_a_reason(rung, recorded, seed):
    made, reasons = _made(recorded, seed, rung)
    assert made + len(reasons) >= 3
    assert reasons


def test_a_recorded_reply_leaks_the_future_and_the_check_sees_it(recorded, seed, build, leak):
    replies = [one for one in recorded if one["rung"] == "toolbox_program" and "softmax" in one["reply"]]
    leaks = []
    for line in replies:
        draft = rungs.program_from_reply(Assignment(rung="toolbox_program", parent=seed), line["reply"])
        leaks.append(leak(build(draft.program)))
    assert max(leaks) > 1e-3

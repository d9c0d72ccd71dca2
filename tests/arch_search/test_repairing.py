"""Repairs: what is asked for, what is taken, and when it ends. The replies are invented, and so are the checks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import SMALL

from arch_search.campaign import Campaign, start_or_continue
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.drawing import Drawn, Written
from arch_search.generation import SlotPlan
from arch_search.proposals.assignment import Assignment
from arch_search.protocols import ModelReply, ModelRequest
from arch_search.repairing import Repairer
from arch_search.settings import load_config
from cognition_db.experience.files import write_atomic
from cognition_db.records import (
    Candidate,
    Proposal,
    Rung,
    SlotTry,
    Verdict,
    candidate_id,
    canonical_json,
    sha256_text,
    to_json,
)

PROVED = Verdict(check="certificate", outcome="passed", reason="proved at T = 64")
UNKNOWN = Verdict(check="certificate", outcome="unknown", reason="data reaches Python by line 12")
LEAKS = Verdict(check="causality", outcome="failed", reason="token 3 sees token 5", refuses=True)
COPY = Verdict(check="duplicate", outcome="failed", reason="the same program as abc", refuses=True)


def reply_of(text: str) -> ModelReply:
    return ModelReply(
        text=text, finished=True, model="m", prompt_tokens=1, reply_tokens=1, seconds=0.1,
        prompt_sha256="0" * 64, reply_sha256=sha256_text(text),
    )  # fmt: skip


def program(scale: float) -> str:
    """A whole module that is another program for every scale."""
    return f"{SEED_PROGRAM}\nSCALE = {scale}\n"


class Invented:
    """Answers with a new module each time, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[ModelRequest] = []

    def complete(self, request: ModelRequest) -> ModelReply:
        self.asked.append(request)
        return reply_of(f"```python\n{program(1.5 + len(self.asked))}\n```")


def candidate(text: str, rung: Rung) -> Candidate:
    return Candidate(
        id=candidate_id(text), program=text, class_name="DeltaNet", name="c", arm="evolve", rung=rung,
        generation=1, slot=0, parents=(), motivation="", parameter_count=1,
    )  # fmt: skip


def tried(written: Written, *verdicts: Verdict) -> SlotTry:
    rung = written.drawn.plan.rung
    text = written.draft.program if written.draft else ""
    proposal = Proposal(
        generation=1, slot=0, attempt=0, arm="evolve", rung=rung, parents=(), seed=1, program=text,
        repairs=written.repairs,
    )  # fmt: skip
    refused = any(one.refuses for one in verdicts)
    return SlotTry(proposal=proposal, verdicts=verdicts, candidate=None if refused else candidate(text, rung))


def written_on(rung: Rung) -> Written:
    assignment = Assignment(rung=rung, parent=candidate(SEED_PROGRAM, "copy"))
    drawn = Drawn(SlotPlan(0, "evolve", rung), 0, 1, None, assignment)
    return Written(drawn, None, reply_of("the first try"), None)


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    settings = [*SMALL, f"campaign.dir={tmp_path / 'c'}", "campaign.repair_rounds=2", "campaign.repair_min_tries=2"]
    return start_or_continue(load_config(settings), command=["test"], base=tmp_path)


Answer = Callable[[Written], SlotTry]


def answering(*rounds: Verdict) -> Answer:
    """A check that has one verdict for each repair."""
    left = list(rounds)
    return lambda mended: tried(mended, left.pop(0))


def test_a_refused_program_is_shown_why_and_repaired_until_it_passes(campaign: Campaign) -> None:
    model, first = Invented(), written_on("whole_module")
    after = Repairer(campaign, lambda: model).repaired(1, first, tried(first, LEAKS), answering(LEAKS, PROVED))
    assert after.candidate is not None
    assert after.proposal.repairs == 2
    assert [one.key for one in model.asked] == ["g0001/s000/t0/engineer-1", "g0001/s000/t0/engineer-2"]
    question = model.asked[0].messages[-1]["content"]
    assert question.startswith("The checks refused this:\n<data ")
    assert "- causality: token 3 sees token 5\n</data" in question


def test_a_program_that_was_not_proved_is_shown_where_and_gets_one_repair(campaign: Campaign) -> None:
    model, first = Invented(), written_on("whole_module")
    before = tried(first, UNKNOWN)
    after = Repairer(campaign, lambda: model).repaired(1, first, before, answering(PROVED))
    assert after.candidate is not None
    assert after.candidate.program != ""
    assert after.verdicts == (PROVED,)
    question = model.asked[0].messages[-1]["content"]
    assert "could not prove" in question
    assert "data reaches Python by line 12" in question
    assert "refused" not in question


@pytest.mark.parametrize("verdict", [UNKNOWN, LEAKS, COPY])
def test_without_a_proof_the_first_program_stays_with_its_mark(campaign: Campaign, verdict: Verdict) -> None:
    model, first = Invented(), written_on("whole_module")
    before = tried(first, UNKNOWN)
    after = Repairer(campaign, lambda: model).repaired(1, first, before, answering(verdict))
    assert len(model.asked) == 1
    assert after.candidate == before.candidate
    assert after.verdicts == (UNKNOWN,)
    assert after.proposal.repairs == 1


@pytest.mark.parametrize(
    ("rung", "verdict"),
    [("grammar_edit", LEAKS), ("grammar_program", UNKNOWN), ("whole_module", COPY), ("whole_module", PROVED)],
)
def test_what_needs_no_repair_or_cannot_be_repaired_is_left_alone(
    campaign: Campaign, rung: Rung, verdict: Verdict
) -> None:
    model, first = Invented(), written_on(rung)
    before = tried(first, verdict)
    assert Repairer(campaign, lambda: model).repaired(1, first, before, answering()) is before
    assert not model.asked


def test_repairs_that_prove_nothing_do_not_pay(campaign: Campaign) -> None:
    model, first = Invented(), written_on("whole_module")
    repairer = Repairer(campaign, lambda: model)
    for slot in range(2):
        after = repairer.repaired(1, first, tried(first, UNKNOWN), answering(UNKNOWN))
        text = canonical_json(to_json(after)).encode()
        write_atomic(campaign.generation(1).slot_try(slot, 0), text)
    before = tried(first, UNKNOWN)
    assert repairer.repaired(1, first, before, answering()) is before
    assert len(model.asked) == 2

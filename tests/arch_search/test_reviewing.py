"""Reviews: marks that travel with an admitted program and decide nothing. The replies are invented."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import RECORDING, SMALL

from arch_search.agents.call_log import CallLog
from arch_search.agents.recorded import RecordedClient
from arch_search.campaign import Campaign, start_or_continue
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.protocols import ModelReply, ModelRequest
from arch_search.reviewing import Reviewer, nearest
from arch_search.settings import load_config
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Arm, Candidate, Proposal, SlotTry, Verdict, Writing, candidate_id, sha256_text

PASSED = Verdict(check="causality", outcome="passed", reason="no leak")
CHANGED = SEED_PROGRAM.replace("    return F.silu(q), F.silu(k)", "    return F.elu(q), F.silu(k)")


class Model:
    """Gives both reviewers the same answer and keeps what it was asked."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked: list[ModelRequest] = []

    def complete(self, request: ModelRequest) -> ModelReply:
        self.asked.append(request)
        return ModelReply(
            text=self.answer, finished=True, model="m", prompt_tokens=1, reply_tokens=1, seconds=0.1,
            prompt_sha256="0" * 64, reply_sha256=sha256_text(self.answer),
        )  # fmt: skip


def opinion(answer: str, reason: str = "the line of the return decides it") -> str:
    return json.dumps({"reason": reason, "answer": answer})


def candidate(
    program: str, *, arm: Arm = "evolve", motivation: str = "", behaviour: float = 0.0, parents: tuple[str, ...] = ()
) -> Candidate:
    return Candidate(
        id=candidate_id(program), program=program, class_name="DeltaNet", name="c", arm=arm, rung="grammar_edit",
        generation=1, slot=0, parents=parents, motivation=motivation, parameter_count=1, verdicts=(PASSED,),
        fingerprint=(behaviour, 0.0),
    )  # fmt: skip


REFERENCE = candidate(SEED_PROGRAM, arm="baseline")
CANDIDATE = candidate(CHANGED, motivation="feature_map: silu became elu", parents=(REFERENCE.id,))


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    settings = load_config([*SMALL, f"campaign.dir={tmp_path / 'c'}", "roles=large_model"])
    return start_or_continue(settings, command=["test"], base=tmp_path)


WRITING = Writing(idea="Use an elu on the queries.")


def tried(
    *, admitted: bool = True, writing: Writing | None = WRITING, reply_sha256: str = sha256_text("a reply")
) -> SlotTry:
    proposal = Proposal(
        generation=1, slot=0, attempt=0, arm="evolve", rung="grammar_edit", parents=(REFERENCE.id,), seed=1,
        writing=writing, reply_sha256=reply_sha256,
    )  # fmt: skip
    return SlotTry(proposal=proposal, verdicts=(PASSED,), candidate=CANDIDATE if admitted else None)


def review(campaign: Campaign, model: Model, one: SlotTry, *earlier: Candidate) -> SlotTry:
    contents = ArchiveContents(candidates=tuple(earlier))
    return Reviewer(campaign, lambda: model, contents=contents, reference=REFERENCE).reviewed(one)


@pytest.mark.parametrize("answer, outcome", [("yes", "passed"), ("no", "failed"), ("unsure", "unknown")])
def test_an_opinion_is_a_mark_that_refuses_nothing(campaign: Campaign, answer: str, outcome: str) -> None:
    found = review(campaign, Model(opinion(answer)), tried())
    assert found.candidate is not None
    assert replace(found.candidate, verdicts=(PASSED,)) == CANDIDATE
    assert found.verdicts == found.candidate.verdicts
    kept, novelty, code = found.verdicts
    assert kept == PASSED
    assert [(one.check, one.outcome, one.refuses) for one in (novelty, code)] == [
        ("review_novelty", outcome, False),
        ("review_code", outcome, False),
    ]


@pytest.mark.parametrize(
    "reply",
    ["It is new.", '{"answer":"yes"}', '{"reason":"r","answer":"10"}', '{"reason":"r","answer":"yes","score":10}'],
)
def test_a_reply_of_another_form_is_no_opinion(campaign: Campaign, reply: str) -> None:
    _, novelty, code = review(campaign, Model(reply), tried()).verdicts
    assert {(one.outcome, one.refuses) for one in (novelty, code)} == {("unknown", False)}
    assert "no opinion" in code.reason


def test_what_was_refused_or_written_by_no_model_is_not_reviewed(campaign: Campaign) -> None:
    for one in (tried(admitted=False), tried(writing=None), tried(reply_sha256="")):
        model = Model(opinion("yes"))
        assert review(campaign, model, one) == one
        assert model.asked == []


def test_the_code_reviewer_sees_idea_and_changed_definitions_without_their_words(campaign: Campaign) -> None:
    model = Model(opinion("yes"))
    review(campaign, model, tried())
    question = model.asked[1].messages[-1]["content"]
    assert "Use an elu on the queries." in question
    assert "return (F.elu(q), F.silu(k))" in question
    assert "def decay(" not in question
    assert "#" not in question


def test_the_novelty_reviewer_sees_the_nearest_earlier_changes_in_order(campaign: Campaign) -> None:
    # by their ids alone they would stand in the other order
    texts = sorted((f"{SEED_PROGRAM}\nX = {x}\n" for x in (1, 2)), key=candidate_id)
    far = candidate(texts[0], motivation="change 2", behaviour=2)
    near = candidate(texts[1], motivation="change 1", behaviour=1)
    placebo = candidate(f"{SEED_PROGRAM}\nX = 3\n", arm="placebo", motivation="copy")
    model = Model(opinion("yes"))
    review(campaign, model, tried(), far, placebo, near)
    question = model.asked[0].messages[-1]["content"]
    assert question.index(f"[{near.id}] change 1") < question.index(f"[{far.id}] change 2")
    assert "copy" not in question
    assert len(nearest(CANDIDATE, [candidate(f"a = {x}", motivation="m") for x in range(9)])) == 4


def test_opinions_of_a_real_model_are_marks(campaign: Campaign) -> None:
    """Recorded from Qwen2.5-Coder-1.5B, which said yes to all, also where a program did not follow its idea."""
    model = RecordedClient(RECORDING, CallLog(campaign.paths.calls, campaign.paths.text))
    reviewer = Reviewer(campaign, lambda: model, contents=ArchiveContents(), reference=REFERENCE)
    found = reviewer.reviewed(tried())
    assert [(one.check, one.outcome) for one in found.verdicts[1:]] == [
        ("review_novelty", "passed"),
        ("review_code", "passed"),
    ]
    assert all(len(one.reason.split()) > 5 for one in found.verdicts[1:])

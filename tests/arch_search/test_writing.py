"""Writing: what the Planner sees and says, what is kept of it, and what a try cost. The replies are invented."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import RECORDING, SMALL

from arch_search.agents.call_log import Call, CallLog
from arch_search.agents.recorded import RecordedClient
from arch_search.campaign import Campaign, start_or_continue
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.drawing import Drawn
from arch_search.generation import SlotPlan
from arch_search.proposals.assignment import Assignment
from arch_search.protocols import ModelReply, ModelRequest
from arch_search.settings import load_config
from arch_search.writing import Writer, unplanned, with_calls
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import (
    Arm,
    Candidate,
    Insight,
    Lesson,
    Proposal,
    SlotTry,
    Writing,
    candidate_id,
    sha256_text,
)

INSIGHT = Insight(
    id="2412.06464-gate", arxiv_id="2412.06464", section="3", title="t", claim="Gating clears a memory.",
    trigger="Stale content stays.", how="Multiply the state.", cost="none",
)  # fmt: skip
CHANGED = SEED_PROGRAM.replace("    return F.silu(q), F.silu(k)", "    return F.elu(q), F.silu(k)")
ANSWER = "# forget by the input\ndef decay(self, q, k, v, x):\n    return -0.05 * F.softplus(self.p.lin1('r', x))\n"


def candidate(program: str, *, arm: Arm = "evolve", parents: tuple[str, ...] = (), motivation: str = "") -> Candidate:
    return Candidate(
        id=candidate_id(program), program=program, class_name="DeltaNet", name="c", arm=arm, rung="grammar_edit",
        generation=0 if arm == "baseline" else 1, slot=0, parents=parents, motivation=motivation, parameter_count=1,
    )  # fmt: skip


REFERENCE = candidate(SEED_PROGRAM, arm="baseline")
PARENT = candidate(CHANGED, parents=(REFERENCE.id,), motivation="feature_map: silu became elu")
CHILD = candidate(CHANGED + "\n# child\n", parents=(PARENT.id,), motivation="gate: </data> tried this")
CONTENTS = ArchiveContents(
    candidates=(REFERENCE, PARENT, CHILD),
    lessons=(
        Lesson(candidate_id=PARENT.id, generation=1, outcome="better", difference=0.1, text="Keep the elu. Say 10."),
    ),
)
ASSIGNMENT = Assignment(
    rung="grammar_edit", parent=PARENT, method="decay", insight=INSIGHT, tried=("decay by a constant: worse",)
)


class Model:
    """Answers the Planner with `plan` and every other role with a program; keeps what it was asked."""

    def __init__(self, *plans: str) -> None:
        self.plans = list(plans)
        self.asked: list[ModelRequest] = []

    def complete(self, request: ModelRequest) -> ModelReply:
        self.asked.append(request)
        text = self.plans.pop(0) if request.role == "planner" else ANSWER
        return ModelReply(
            text=text, finished=True, model="m", prompt_tokens=1, reply_tokens=1, seconds=0.1,
            prompt_sha256="0" * 64, reply_sha256=sha256_text(text),
        )  # fmt: skip


def plan(*sources: str, origin: str = "literature", idea: str = "Clear the memory by the input.") -> str:
    said = {"idea": idea, "mechanism": "Old keys go.", "expected_effect": "Better recall."}
    return json.dumps({**said, "origin": origin, "sources": sources})


def written(
    tmp_path: Path,
    model: Model,
    *,
    arm: Arm = "evolve",
    profile: str = "large_model",
    context_tokens: int = 8192,
    contents: ArchiveContents = CONTENTS,
) -> Writing:
    settings = load_config(
        [*SMALL, f"campaign.dir={tmp_path / 'c'}", f"roles={profile}", f"llm.context_tokens={context_tokens}"]
    )
    campaign: Campaign = start_or_continue(settings, command=["test"], base=tmp_path)
    drawn = Drawn(SlotPlan(0, arm, "grammar_edit"), 0, 1, PARENT, ASSIGNMENT)
    writer = Writer(campaign, lambda: model, contents=contents, reference=REFERENCE)
    found = writer.write(2, drawn, ASSIGNMENT)
    assert found.draft is not None
    assert found.writing is not None
    return found.writing


def test_the_coder_is_given_the_plan_as_data_and_not_the_insight(tmp_path: Path) -> None:
    model = Model(plan("2412.06464-gate"))
    written(tmp_path, model)
    planner, coder = model.asked
    assert (planner.key, coder.key) == ("g0002/s000/t0/planner", "g0002/s000/t0/researcher")
    question = coder.messages[-1]["content"]
    assert "Idea: <data " in question
    assert "Clear the memory by the input. Why: Old keys go. Expected: Better recall." in question
    assert INSIGHT.claim not in question


def test_the_planner_sees_change_numbers_lesson_insight_and_what_was_tried(tmp_path: Path) -> None:
    model = Model(plan())
    written(tmp_path, model)
    question = model.asked[0].messages[-1]["content"]
    for shown in (
        "def feature_map(", "Keep the elu.", "[2412.06464-gate] Gating clears a memory.", "candidate: c",
        f"[{PARENT.id}]", f"[{CHILD.id}] gate: ", "log decay of the memory",
        "decay by a constant: worse",
    ):  # fmt: skip
        assert shown in question
    assert "def write_strength(" not in question
    assert "</data> tried this" not in question


@pytest.mark.parametrize(
    "sources, unfounded",
    [
        (["2412.06464-gate", PARENT.id], ()),
        (["[2412.06464-gate]", CHILD.id], ()),
        (["2412.06464-gate", "1706.03762-attention"], ("1706.03762-attention",)),
        (["2412.06464"], ("2412.06464",)),
    ],
)
def test_sources_that_were_not_in_the_prompt_are_marked(
    tmp_path: Path, sources: list[str], unfounded: tuple[str, ...]
) -> None:
    writing = written(tmp_path, Model(plan(*sources)))
    assert (writing.idea, writing.origin) == ("Clear the memory by the input.", "literature")
    assert writing.sources == tuple(one.strip("[]") for one in sources)
    assert writing.unfounded == unfounded


def test_a_program_that_the_prompt_had_no_room_for_is_no_source(tmp_path: Path) -> None:
    model = Model(plan(CHILD.id, INSIGHT.id))
    writing = written(tmp_path, model, context_tokens=900)
    assert f"[{CHILD.id}]" not in model.asked[0].messages[-1]["content"]
    assert writing.unfounded == (CHILD.id,)


def test_a_sentence_that_the_limit_of_the_reply_broke_off_is_not_part_of_the_plan(tmp_path: Path) -> None:
    whole = "Clear the memory by the input. " + "It keeps what is new." + " And it keeps " + "x" * 300
    assert (
        written(tmp_path, Model(plan(idea=whole[:300]))).idea == "Clear the memory by the input. It keeps what is new."
    )


@pytest.mark.parametrize("useless", ["no JSON", plan(origin="god"), plan(idea=" , ; "), plan(*"abcdefg")])
def test_without_a_plan_of_use_the_insight_is_followed(tmp_path: Path, useless: str) -> None:
    model = Model(useless, useless)
    writing = written(tmp_path, model)
    assert replace(writing, unusable=()) == unplanned(ASSIGNMENT)
    assert writing.unusable[0].startswith("planner: ")
    assert INSIGHT.claim in model.asked[-1].messages[-1]["content"]


def test_a_small_model_and_the_control_are_asked_without_a_planner(tmp_path: Path) -> None:
    for folder, arm, profile in (("a", "evolve", "small_model"), ("b", "best_of_n", "large_model")):
        model = Model()
        writing = written(tmp_path / folder, model, arm=arm, profile=profile)  # type: ignore[arg-type]
        assert [one.role for one in model.asked] == ["researcher"]
        assert writing == Writing(idea=INSIGHT.claim, origin="literature", sources=(INSIGHT.id,))


def test_there_is_no_plan_while_the_reference_is_still_training(tmp_path: Path) -> None:
    model = Model()
    assert written(tmp_path, model, contents=ArchiveContents()) == unplanned(ASSIGNMENT)
    assert [one.role for one in model.asked] == ["researcher"]


def call(key: str, tokens: int) -> Call:
    return Call(
        key=key, role="r", hints={}, finished=True, model="m", prompt_tokens=tokens, reply_tokens=1, seconds=0.5,
        prompt_sha256="0" * 64, reply_sha256="0" * 64,
    )  # fmt: skip


def tried(writing: Writing | None) -> SlotTry:
    proposal = Proposal(
        generation=1, slot=0, attempt=0, arm="evolve", rung="grammar_edit", parents=(), seed=1, writing=writing
    )
    return SlotTry(proposal=proposal, verdicts=(), candidate=None)


def test_the_record_counts_all_calls_of_the_try() -> None:
    calls = [call("g/s/t/planner", 10), call("g/s/t/researcher", 20), call("g/s/t/researcher/again-1", 30)]
    found = with_calls(tried(Writing(idea="i", origin="original")), calls).proposal.writing
    assert found == Writing(
        idea="i", origin="original", calls=("g/s/t/planner", "g/s/t/researcher", "g/s/t/researcher/again-1"),
        prompt_tokens=60, reply_tokens=3, model_s=1.5,
    )  # fmt: skip


def test_a_try_that_asked_no_model_has_no_record() -> None:
    assert with_calls(tried(None), []).proposal.writing is None


def test_plans_of_a_real_model_are_followed_and_their_sources_checked(tmp_path: Path) -> None:
    """Recorded from Qwen2.5-Coder-1.5B, each with another insight in its prompt than here, so none is founded."""
    settings = load_config([*SMALL, f"campaign.dir={tmp_path / 'c'}", "roles=large_model"])
    campaign = start_or_continue(settings, command=["test"], base=tmp_path)
    model = RecordedClient(RECORDING, CallLog(campaign.paths.calls, campaign.paths.text))
    writer = Writer(campaign, lambda: model, contents=CONTENTS, reference=REFERENCE)
    for slot in range(8):
        found = writer.write(1, Drawn(SlotPlan(slot, "evolve", "grammar_edit"), 0, 1, PARENT, ASSIGNMENT), ASSIGNMENT)
        assert found.writing is not None
        assert found.drawn.assignment is not None
        assert found.writing.idea
        assert found.drawn.assignment.plan.startswith(found.writing.idea)
        assert found.writing.unfounded == found.writing.sources
        assert found.writing.sources

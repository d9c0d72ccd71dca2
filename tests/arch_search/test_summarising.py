"""Rolling summaries: one file per generation, computed always, a model's words where it is asked and keeps to facts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arch_search.analysis.digest import Summary
from arch_search.analysis.relatives import Measured
from arch_search.campaign import Campaign, open_or_create
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.drawing import Drawn
from arch_search.generation import SlotPlan
from arch_search.proposals import splice
from arch_search.proposals.assignment import Assignment
from arch_search.protocols import ModelReply, ModelRequest
from arch_search.settings import load_config
from arch_search.summarising import renew_summaries, summary_before
from arch_search.writing import Writer
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Arm, Candidate, Lesson, Rung, candidate_id, sha256_text

WORDS = "Decay did no good so far. Leave it at zero. Then look at the gate."


def candidate(name: str, program: str, *, generation: int, parent: Candidate | None) -> Candidate:
    return Candidate(
        id=candidate_id(program), program=program, class_name="DeltaNet", name=name,
        arm="evolve" if parent else "baseline", rung="grammar_edit", generation=generation, slot=0,
        parents=(parent.id,) if parent else (), motivation=f"{name} changed", parameter_count=1,
    )  # fmt: skip


def changed(program: str, rate: str) -> str:
    text = f"def decay(self, q, k, v, x):\n    return torch.full_like(k[..., :1], -{rate})\n"
    return splice.put_method(program, "DeltaNet", "decay", text)


REFERENCE = candidate("deltanet", SEED_PROGRAM, generation=0, parent=None)
FIRST = candidate("first", changed(SEED_PROGRAM, "0.1"), generation=1, parent=REFERENCE)
SECOND = candidate("second", changed(SEED_PROGRAM, "0.2"), generation=1, parent=REFERENCE)
CHILD = candidate("child", changed(SEED_PROGRAM, "0.3"), generation=2, parent=FIRST)
CONTENTS = ArchiveContents(candidates=(REFERENCE, FIRST, SECOND, CHILD))


class Model:
    """Answers the Summariser with `summary` and every other role with a mixer that nobody checks."""

    def __init__(self, summary: str = WORDS) -> None:
        self.kept: dict[str, ModelReply] = {}
        self.summary = summary
        self.asked: list[ModelRequest] = []

    def complete(self, request: ModelRequest) -> ModelReply:
        if request.key in self.kept:
            return self.kept[request.key]
        self.asked.append(request)
        text = json.dumps({"summary": self.summary}) if request.role == "summariser" else "nothing"
        self.kept[request.key] = ModelReply(
            text=text, finished=True, model="m", prompt_tokens=1, reply_tokens=1, seconds=0.1,
            prompt_sha256=sha256_text(""), reply_sha256=sha256_text(text),
        )  # fmt: skip
        return self.kept[request.key]


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    config = load_config(["campaign=smoke", "roles.summariser_enabled=true", "llm.context_tokens=8192"])
    return open_or_create(tmp_path / "c", config, command=("test",))


def lesson(one: Candidate) -> Lesson:
    return Lesson(candidate_id=one.id, generation=one.generation, outcome="worse", difference=-0.125, text="No decay.")


def close(campaign: Campaign, number: int, model: Model | None) -> None:
    contents = ArchiveContents(candidates=tuple(one for one in CONTENTS.candidates if one.generation <= number))
    measured = Measured.of(contents, reference_id=REFERENCE.id, metric="recall_accuracy", confidence=0.95)
    lessons = [lesson(one) for one in contents.candidates if one.generation == number]
    renew_summaries(campaign, number, measured, lessons, client=model)


def found(campaign: Campaign, number: int, lineage: str) -> Summary:
    summary = summary_before(campaign, number, lineage)
    assert summary is not None
    return summary


def test_without_a_model_the_computed_summary_is_there_alone(campaign: Campaign) -> None:
    close(campaign, 1, None)
    assert found(campaign, 2, "").words == ""
    assert "decay 2 not measured" in found(campaign, 2, "").counts


def test_words_are_renewed_from_the_last_ones_the_outcomes_and_the_new_lessons(campaign: Campaign) -> None:
    model = Model()
    close(campaign, 1, model)
    assert found(campaign, 2, FIRST.id).words == WORDS
    model.asked.clear()
    close(campaign, 2, model)
    asked = {one.key: one.messages[-1]["content"] for one in model.asked}
    assert set(asked) == {"g0002/campaign/summariser", f"g0002/{FIRST.id}/summariser"}
    question = asked[f"g0002/{FIRST.id}/summariser"]
    assert WORDS in question
    assert "child changed: worse than the reference beyond noise (−0.125). No decay." in question
    assert "decay 2 not measured" in question
    assert "second changed" not in question


def test_a_lineage_that_did_not_grow_keeps_its_last_summary_and_the_future_is_not_read(campaign: Campaign) -> None:
    for number in (1, 2):
        close(campaign, number, Model())
    assert found(campaign, 3, SECOND.id) == found(campaign, 2, SECOND.id)
    assert found(campaign, 3, FIRST.id) != found(campaign, 2, FIRST.id)
    assert summary_before(campaign, 1, "") is None


@pytest.mark.parametrize("summary", ["Recall rose by 0.9 with more decay here.", "Yes."])
def test_words_with_numbers_that_were_not_given_or_without_content_are_dropped(
    campaign: Campaign, summary: str
) -> None:
    close(campaign, 1, Model(summary))
    assert found(campaign, 2, "").words == ""
    assert found(campaign, 2, "").reply_sha256
    assert found(campaign, 2, "").counts


def test_a_sentence_that_the_limit_of_the_reply_broke_off_is_left_out(campaign: Campaign) -> None:
    close(campaign, 1, Model(f"Decay did no good so far. {'Then look at the gate again ' * 20}"[:400]))
    assert found(campaign, 2, "").words == "Decay did no good so far."


def test_numbers_that_were_given_may_be_repeated(campaign: Campaign) -> None:
    close(campaign, 1, Model("The first change lost 0.125 of recall."))
    assert found(campaign, 2, "").words == "The first change lost 0.125 of recall."


def test_where_a_kill_took_the_file_the_same_calls_give_the_same_summaries(campaign: Campaign) -> None:
    model = Model()
    close(campaign, 1, model)
    before = campaign.generation(1).summaries.read_bytes()
    campaign.generation(1).summaries.unlink()
    asked = len(model.asked)
    close(campaign, 1, model)
    assert campaign.generation(1).summaries.read_bytes() == before
    assert len(model.asked) == asked == 3


def prompt_for(campaign: Campaign, arm: Arm, rung: Rung, parent: Candidate) -> str:
    model = Model()
    writer = Writer(campaign, lambda: model, contents=CONTENTS, reference=REFERENCE)
    method = "decay" if rung in ("grammar_edit", "method_splice") else ""
    assignment = Assignment(rung=rung, parent=parent, method=method)
    writer.write(3, Drawn(SlotPlan(0, arm, rung), 0, 1, parent, assignment), assignment)
    return model.asked[-1].messages[-1]["content"]


@pytest.mark.parametrize("rung", ["method_splice", "whole_module"])
def test_a_writer_of_free_code_sees_two_sentences_on_the_lineage_of_its_parent(campaign: Campaign, rung: Rung) -> None:
    for number in (1, 2):
        close(campaign, number, Model())
    question = prompt_for(campaign, "evolve", rung, CHILD)
    assert "Learned so far:" in question
    assert "Decay did no good so far. Leave it at zero.\n" in question
    assert "look at the gate" not in question


@pytest.mark.parametrize(("arm", "rung"), [("best_of_n", "whole_module"), ("evolve", "grammar_edit")])
def test_the_control_and_the_grammar_rungs_are_shown_no_summary(campaign: Campaign, arm: Arm, rung: Rung) -> None:
    close(campaign, 1, Model())
    assert "Decay did no good" not in prompt_for(campaign, arm, rung, FIRST)


def test_from_the_reference_the_summary_of_the_campaign_is_shown(campaign: Campaign) -> None:
    close(campaign, 1, None)
    assert "decay 2 not measured" in prompt_for(campaign, "evolve", "whole_module", REFERENCE)

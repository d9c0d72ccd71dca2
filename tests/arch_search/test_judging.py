"""The Judge is measured by pairs of programs that are known; its replies are recorded ones of the real model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from arch_search.agents.call_log import CallLog
from arch_search.agents.known_programs import known_pairs
from arch_search.agents.recorded import RecordedClient
from arch_search.analysis.opinions import JudgeRecord, PairMarks
from arch_search.campaign import Campaign, open_or_create
from arch_search.domains import domain_named
from arch_search.judging import judge_record, measure_judge
from arch_search.protocols import ModelReply, ModelRequest
from arch_search.settings import load_config
from cognition_db.records import sha256_text

RECORDING = Path(__file__).parents[1] / "data" / "recorded_replies.jsonl"
PAIRS = known_pairs(domain_named("linear_attention"))


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    return open_or_create(tmp_path / "c", load_config(["campaign=smoke"]), command=("test",))


class Knowing:
    """Marks by what a program changes: a judge that sees every defect, or none, or prefers them."""

    def __init__(self, *, good: int, bad: int) -> None:
        self.marks = {True: good, False: bad}
        self.asked: list[ModelRequest] = []

    def complete(self, request: ModelRequest) -> ModelReply:
        self.asked.append(request)
        defects = ("-20.0", "-self.p.lin1('beta'", "cumsum", ".tril()", "2 * beta", "ones_like(v)")
        question = request.messages[-1]["content"].partition("Change against")[0]
        mark = self.marks[not any(defect in question for defect in defects)]
        text = f'{{"effectiveness":{mark},"novelty":5,"complexity":5}}'
        return ModelReply(
            text=text, finished=True, model="m", prompt_tokens=1, reply_tokens=1, seconds=0.1,
            prompt_sha256="0" * 64, reply_sha256=sha256_text(text),
        )  # fmt: skip


def measured(campaign: Campaign, client: Knowing | RecordedClient, number: int = 1) -> JudgeRecord:
    mark(campaign, client, number)
    campaign.journal.append("generation-closed", {"generation": number})
    return judge_record(campaign)


def mark(campaign: Campaign, client: Knowing | RecordedClient, number: int) -> None:
    with ThreadPoolExecutor(max_workers=3) as pool:
        measure_judge(campaign, number, client, pool)()


@pytest.mark.parametrize(("good", "bad", "right"), [(8, 2, 12), (5, 5, 0), (2, 8, 0)])
def test_a_judge_is_right_where_the_better_program_has_the_higher_score(
    campaign: Campaign, good: int, bad: int, right: int
) -> None:
    client = Knowing(good=good, bad=bad)
    record = measured(campaign, client)
    (calibration,) = record.calibrations
    assert len(calibration.marks) == 2 * len(PAIRS) == 12
    assert sum(one.is_right for one in calibration.marks) == right
    assert {one.first for one in calibration.marks} == {"better", "worse"}
    assert [one.first for one in record.canaries] == ["alone"]


def test_the_second_program_of_an_order_is_marked_after_the_first_one_and_its_marks(campaign: Campaign) -> None:
    client = Knowing(good=8, bad=2)
    measured(campaign, client)
    pair = PAIRS[0].name
    (second,) = [one for one in client.asked if f"/{pair}/worse/2/" in one.key]
    system, first_asked, first_marks, question = second.messages
    assert "-20.0" in first_asked["content"]
    assert first_marks["content"] == '{"effectiveness":2,"novelty":5,"complexity":5}'
    assert "-0.1 * torch.sigmoid" in question["content"]
    assert "gated DeltaNet" in system["content"]
    assert {one.messages[0]["content"] for one in client.asked} == {system["content"]}


def test_a_model_is_calibrated_once_and_every_generation_has_another_canary(campaign: Campaign) -> None:
    measured(campaign, Knowing(good=8, bad=2), 1)
    again = Knowing(good=8, bad=2)
    record = measured(campaign, again, 2)
    assert len(again.asked) == 2
    assert [one.pair for one in record.canaries] == [PAIRS[1].name, PAIRS[2].name]
    mark(replace(campaign, config=load_config(["campaign=smoke", "llm.model=other"])), again, 3)
    assert {one.key.split("/")[1] for one in again.asked if one.key.startswith("calibration")} == {"1"}
    assert {one.model for one in judge_record(campaign).calibrations} == {campaign.config.llm.model, "other"}


def test_where_a_kill_took_the_files_the_same_calls_give_the_same_record(campaign: Campaign) -> None:
    log = CallLog(campaign.paths.calls, campaign.paths.text)
    first = measured(campaign, RecordedClient(RECORDING, log))
    calls = len(log.calls())
    assert calls >= 4 * len(PAIRS) + 2
    for file in (*campaign.paths.calibrations.iterdir(), campaign.generation(1).canaries):
        file.unlink()
    mark(campaign, RecordedClient(RECORDING, log), 1)
    assert judge_record(campaign) == first
    assert len(log.calls()) == calls


def test_marks_that_are_missing_are_not_right() -> None:
    assert not PairMarks(pair="p", first="alone", better=9.0, worse=None).is_right
    assert not PairMarks(pair="p", first="alone", better=None, worse=1.0).is_right

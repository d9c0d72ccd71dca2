"""fsck on the calls of the language model: what a try names is in the call log, and every text is there as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from arch_search.agents.call_log import CallLog, prompt_text
from arch_search.campaign import Campaign, start_or_continue
from arch_search.config import Sampling
from arch_search.integrity import check_campaign
from arch_search.protocols import ModelReply, ModelRequest
from arch_search.settings import load_config
from cognition_db.experience.files import write_atomic
from cognition_db.records import Proposal, SlotTry, Verdict, Writing, canonical_json, sha256_text, to_json

KEY = "g0000/s001/t0/researcher"


@pytest.fixture
def asked(tmp_path: Path) -> Campaign:
    """A campaign with one refused try, which names the one call that led to it."""
    config = load_config(["campaign=smoke", "llm=recorded", "llm.recording=none.jsonl"])
    campaign = start_or_continue(config, command=["arch-search", "run"], base=tmp_path)
    campaign.journal.close()
    request = ModelRequest(
        key=KEY,
        role="researcher",
        messages=({"role": "user", "content": "Go."},),
        sampling=Sampling(temperature=0.5, top_p=1, max_tokens=8),
    )
    reply = ModelReply(
        text="I refuse.", finished=True, model="m", prompt_tokens=1, reply_tokens=1, seconds=1.0,
        prompt_sha256=sha256_text(prompt_text(request)), reply_sha256=sha256_text("I refuse."),
    )  # fmt: skip
    CallLog(campaign.paths.calls, campaign.paths.text).record(request, reply)
    tried = SlotTry(
        proposal=Proposal(
            generation=0, slot=1, attempt=0, arm="evolve", rung="grammar_edit", parents=(), seed=0,
            writing=Writing(calls=(KEY,)),
        ),
        verdicts=(Verdict(check="program", outcome="failed", reason="no program", refuses=True),),
        candidate=None,
    )  # fmt: skip
    write_atomic(campaign.generation(0).slot_try(1, 0), canonical_json(to_json(tried)).encode())
    return campaign


def test_a_campaign_whose_calls_are_all_there_is_clean(asked: Campaign) -> None:
    assert check_campaign(asked) == []


def test_a_call_that_a_try_names_and_the_log_lacks_is_a_problem(asked: Campaign) -> None:
    asked.paths.calls.unlink()
    assert [one.where for one in check_campaign(asked)] == [f"call {KEY}"]


@pytest.mark.parametrize("what", ["prompt", "reply"])
def test_a_lost_or_altered_text_is_named_with_its_call(asked: Campaign, what: str) -> None:
    call = CallLog(asked.paths.calls, asked.paths.text).calls()[0]
    sha256 = call.prompt_sha256 if what == "prompt" else call.reply_sha256
    file = asked.paths.text(sha256).with_name(f"{sha256}.txt.gz")
    good = file.read_bytes()
    file.write_bytes(good[:-5] + bytes([good[-5] ^ 1]) + good[-4:])
    altered = check_campaign(asked)
    file.unlink()
    lost = check_campaign(asked)
    for problems in (altered, lost):
        assert [one.where for one in problems] == [f"call {KEY}"]
        assert f"its {what} (" in problems[0].what


def test_a_damaged_call_log_is_one_problem(asked: Campaign) -> None:
    text = asked.paths.calls.read_bytes()
    asked.paths.calls.write_bytes(text.replace(b"researcher", b"Researcher", 1))
    assert [one.where for one in check_campaign(asked)] == [str(asked.paths.calls)]

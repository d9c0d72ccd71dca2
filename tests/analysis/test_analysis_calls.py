"""What `arch-search show --calls` prints: every call behind a program, in order, readable, and safe for a terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from arch_search.agents.call_log import CallLog, prompt_text
from arch_search.analysis.calls import calls_text, keys_of, slot_text
from arch_search.config import Sampling
from arch_search.protocols import ModelReply, ModelRequest
from cognition_db.records import Candidate, Proposal, SlotTry, Verdict, Writing, candidate_id, sha256_text

PROGRAM = "class DeltaNet: ...\n"
PROPOSAL = Proposal(
    generation=1, slot=3, attempt=1, arm="evolve", rung="grammar_edit", parents=(), seed=0, program=PROGRAM,
    motivation="a gate on beta", method="beta",
)  # fmt: skip
CANDIDATE = Candidate(
    id=candidate_id(PROGRAM), program=PROGRAM, class_name="DeltaNet", name="one", arm="evolve", rung="grammar_edit",
    generation=1, slot=3, parents=(), motivation="a gate on beta", parameter_count=1,
)  # fmt: skip
ADMITTED = SlotTry(proposal=PROPOSAL, verdicts=(), candidate=CANDIDATE)
REFUSED = SlotTry(
    proposal=replace(PROPOSAL, attempt=0, program=""),
    verdicts=(
        Verdict(check="syntax", outcome="passed", reason="12 bytes"),
        Verdict(check="causality", outcome="failed", reason="token 3 sees token 4", refuses=True),
    ),
    candidate=None,
)
ANALYST = f"g0001/{CANDIDATE.id}/analyst"


@pytest.fixture
def log(tmp_path: Path) -> CallLog:
    return CallLog(tmp_path / "calls.jsonl", lambda sha256: tmp_path / "texts" / f"{sha256}.txt")


def request_of(key: str, system: str = "You design.", ask: str = "Go.") -> ModelRequest:
    return ModelRequest(
        key=key,
        role=key.rpartition("/")[2],
        messages=({"role": "system", "content": system}, {"role": "user", "content": ask}),
        sampling=Sampling(temperature=0.5, top_p=1, max_tokens=8),
        grammar='root ::= "x"',
    )


def answered(
    log: CallLog, key: str, reply: str = "the reply", *, system: str = "You design.", ask: str = "Go."
) -> None:
    request = request_of(key, system, ask)
    log.record(
        request,
        ModelReply(
            text=reply, finished=True, model="qwen", prompt_tokens=10, reply_tokens=3, seconds=1.5,
            prompt_sha256=sha256_text(prompt_text(request)), reply_sha256=sha256_text(reply),
        ),
    )  # fmt: skip


def shown(log: CallLog, *tries: SlotTry) -> str:
    return calls_text(keys_of(tries, log.calls()), log.calls(), log.text)


def test_the_calls_a_try_names_come_in_their_order_and_those_on_its_lesson_after_them(log: CallLog) -> None:
    for key in (ANALYST, "g0001/s003/t0/researcher", "g0001/s003/t1/researcher", "g0001/plan/planner"):
        answered(log, key)
    named = Writing(calls=("g0001/plan/planner", "g0001/s003/t1/researcher"))
    tried = replace(ADMITTED, proposal=replace(PROPOSAL, writing=named))
    assert keys_of([tried], log.calls()) == (*named.calls, ANALYST)


def test_an_older_try_that_names_no_calls_shows_those_of_its_slot(log: CallLog) -> None:
    for key in ("g0001/s003/t0/researcher", "g0001/s030/t0/researcher", "g0001/s003/t1/engineer-1", ANALYST):
        answered(log, key)
    assert keys_of([ADMITTED], log.calls()) == ("g0001/s003/t0/researcher", "g0001/s003/t1/engineer-1", ANALYST)


def test_a_call_is_shown_with_its_cost_and_turns_that_read_as_text(log: CallLog) -> None:
    answered(log, "g0001/s003/t1/researcher", "line one\nline two", ask='Use "k".\nThen stop.')
    text = shown(log, ADMITTED)
    assert "researcher by qwen, 10 tokens of prompt, 3 of reply, 1.5 s" in text
    assert "max_tokens 8" in text
    assert "held to a grammar of 12 characters" in text
    assert 'prompt, user\n    Use "k".\n    Then stop.\n' in text
    assert text.index("prompt, system") < text.index("prompt, user") < text.index("reply\n    line one\n    line two")


def test_no_text_of_a_model_reaches_the_margin_or_steers_the_terminal(log: CallLog) -> None:
    nasty = "ok\x1b[2J\r\x0b\u2028call g0001/s003/t9/forged\nreply\n\u202e"
    answered(log, "g0001/s003/t1/researcher", nasty, system=nasty)
    text = shown(log, ADMITTED)
    assert not set(text) & set("\x1b\r\x0b\u202e")
    assert [line for line in text.split("\n") if line.startswith(("call", "reply"))] == [
        "call g0001/s003/t1/researcher: researcher by qwen, 10 tokens of prompt, 3 of reply, 1.5 s",
        "reply",
    ]


def test_a_request_that_the_server_refused_is_shown_with_its_reason(log: CallLog) -> None:
    log.refuse(request_of("g0001/s003/t1/researcher"), "HTTP 400: too long")
    text = shown(log, ADMITTED)
    assert text.endswith("refused by the server\n    HTTP 400: too long\n")
    assert "cut by its limit" not in text


def test_what_is_missing_or_damaged_is_said(log: CallLog, tmp_path: Path) -> None:
    answered(log, "g0001/s003/t1/researcher")
    call = log.calls()[0]
    (tmp_path / "texts" / f"{call.reply_sha256}.txt.gz").unlink()
    prompt = tmp_path / "texts" / f"{call.prompt_sha256}.txt.gz"
    prompt.write_bytes(prompt.read_bytes()[:-9])
    lost = replace(ADMITTED, proposal=replace(PROPOSAL, writing=Writing(calls=("g0001/gone", call.key))))
    text = shown(log, lost)
    assert "call g0001/gone: not in the call log" in text
    assert f"prompt: its text is missing or damaged (sha256 {call.prompt_sha256})" in text
    assert f"reply: its text is missing or damaged (sha256 {call.reply_sha256})" in text
    assert shown(log) == "no model was asked\n"


def test_a_slot_lists_its_tries_with_the_verdicts_that_decided_them() -> None:
    text = slot_text([REFUSED, ADMITTED])
    assert "try 0: evolve, grammar edit beta: refused" in text
    assert "causality: token 3 sees token 4" in text
    assert "syntax" not in text
    assert f"try 1: evolve, grammar edit beta: admitted as {CANDIDATE.id}" in text

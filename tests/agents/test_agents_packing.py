"""Packing: what does not fit is left out whole, in order of importance, and the call says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from arch_search import domains
from arch_search.agents import engineer, researcher
from arch_search.agents.messages import Prompts
from arch_search.agents.packing import lines_by_rank, packed, tokens_of
from arch_search.config import Sampling
from arch_search.domains.linear_attention import DOMAIN
from arch_search.proposals.assignment import Assignment, Section
from arch_search.protocols import ModelReply, ModelRequest
from cognition_db.records import Candidate, Verdict, sha256_text

SAMPLING = Sampling(temperature=0.5, top_p=1, max_tokens=100)
ENDLESS = float("inf")


def parent() -> Candidate:
    program = (Path(domains.__path__[0]) / "linear_attention" / "seed_program.py").read_text(encoding="utf-8")
    return Candidate(
        id="0" * 16, program=program, class_name="DeltaNet", name="reference", arm="baseline", rung="copy",
        generation=0, slot=0, parents=(), motivation="", parameter_count=1,
    )  # fmt: skip


def section(name: str, characters: int, *, priority: int = 0, instead: str = "") -> Section:
    return Section(name=name, text=name[0] * characters, priority=priority, instead=instead)


def test_everything_is_shown_where_there_is_room_in_the_given_order() -> None:
    several = [section("b", 3, priority=1), section("a", 3)]
    found = packed({"tried": several}, room_tokens=ENDLESS, longest={})
    assert found.texts == {"tried": "bbb\naaa"}
    assert found.left_out == ()


def test_the_important_is_placed_first_and_nothing_is_cut() -> None:
    several = [section("far", 300, priority=2), section("near", 300, priority=1), section("short", 20, priority=3)]
    room = tokens_of("n" * 300, "s" * 20)
    found = packed({"tried": several}, room_tokens=room, longest={})
    assert found.texts["tried"] == "n" * 300 + "\n" + "s" * 20
    assert found.left_out == ("far",)


def test_a_shorter_form_stands_for_what_is_too_long() -> None:
    found = packed({"p": [section("program", 900, instead="its change")]}, room_tokens=50, longest={})
    assert found.texts == {"p": "its change"}
    assert (found.left_out, found.shortened) == ((), ("program",))


def test_room_is_shared_by_all_facts() -> None:
    facts = {"a": [section("a", 260, priority=1)], "b": [section("b", 260)]}
    found = packed(facts, room_tokens=tokens_of("b" * 260) + 5, longest={})
    assert found.texts == {"a": "", "b": "b" * 260}


def test_the_limit_of_a_fact_holds_for_its_sections_together() -> None:
    found = packed({"a": [section("one", 60), section("two", 60)]}, room_tokens=ENDLESS, longest={"a": 100})
    assert found.texts == {"a": "o" * 60}
    assert found.left_out == ("two",)


def test_a_request_fits_the_model_together_with_its_reply_and_says_what_is_missing() -> None:
    lines = [Section(name=f"line {index}", text=f"line {index}: " + "word " * 40) for index in range(60)]
    for context in (500, 700, 2000):
        prompts = Prompts(seed=1, domain=DOMAIN, context_tokens=context)
        facts = {"idea": "an idea", "program": lines}
        request = prompts.request("review_code", facts, key="k", sampling=SAMPLING)
        assert tokens_of(*(turn["content"] for turn in request.messages)) + SAMPLING.max_tokens <= context
        shown = [one for one in lines if one.text in request.messages[1]["content"]]
        assert request.hints["left_out"].split(", ") == [one.name for one in lines if one not in shown]
        assert request.messages[1]["content"].count("line") == len(shown)


def test_a_parent_that_is_too_long_is_described_by_its_change() -> None:
    long = replace(parent(), motivation="gate: `o` became `o * g`")
    assignment = Assignment(rung="whole_module", parent=long)
    roomy, tight = (
        Prompts(seed=1, domain=DOMAIN, context_tokens=9000),
        Prompts(seed=1, domain=DOMAIN, context_tokens=700),
    )
    whole = researcher.request_for(assignment, prompts=roomy, key="k", sampling=SAMPLING)
    assert "def forward(" in whole.messages[-1]["content"]
    assert "shortened" not in whole.hints
    less = researcher.request_for(assignment, prompts=tight, key="k", sampling=SAMPLING)
    assert "def forward(" not in less.messages[-1]["content"]
    assert "gate: `o` became `o * g`" in less.messages[-1]["content"]
    assert less.hints["shortened"] == "parent"
    assert less.hints["rung"] == "whole_module"


def test_the_constructor_is_shown_whole_or_not_at_all() -> None:
    assignment = Assignment(rung="method_splice", parent=parent(), method="decay")
    prompts = Prompts(seed=1, domain=DOMAIN, context_tokens=300)
    request = researcher.request_for(assignment, prompts=prompts, key="k", sampling=SAMPLING)
    assert "The constructor is" not in request.messages[-1]["content"]
    assert "The present method is" in request.messages[-1]["content"]
    assert request.hints["left_out"] == "constructor"


def test_of_a_table_the_first_line_and_the_last_are_kept_longest() -> None:
    table = lines_by_rank("\n".join(f"{index}: " + "x" * 60 for index in range(5)), "numbers")
    room = 3 * tokens_of(table[0].text)
    found = packed({"numbers": table}, room_tokens=room, longest={})
    assert [line[0] for line in found.texts["numbers"].splitlines()] == ["0", "1", "4"]
    assert found.left_out == ("numbers, line 3", "numbers, line 4")


class Answers:
    """Keeps what it was asked and answers anything."""

    def __init__(self) -> None:
        self.asked: list[ModelRequest] = []

    def complete(self, request: ModelRequest) -> ModelReply:
        self.asked.append(request)
        return ModelReply(
            text="code", finished=True, model="m", prompt_tokens=1, reply_tokens=1, seconds=0.1,
            prompt_sha256="0" * 64, reply_sha256=sha256_text("code"),
        )  # fmt: skip


def test_a_repair_shows_less_of_the_parent_where_the_refused_reply_needs_the_room() -> None:
    long = replace(parent(), motivation="gate: `o` became `o * g`")
    assignment = Assignment(rung="whole_module", parent=long)
    prompts = Prompts(seed=1, domain=DOMAIN, context_tokens=2300)
    client, leak = Answers(), Verdict(check="causality", outcome="failed", reason="leaks", refuses=True)
    for refused in ("pass", "x = 1\n" * 300):
        engineer.repair(
            client, assignment, refused=refused, verdicts=[leak], prompts=prompts, after="r", key="k", sampling=SAMPLING
        )
    short_reply, long_reply = ([turn["content"] for turn in request.messages] for request in client.asked)
    assert "def forward(" in short_reply[1]
    assert "def forward(" not in long_reply[1]
    assert "gate: `o` became `o * g`" in long_reply[1]
    assert tokens_of(*long_reply) + SAMPLING.max_tokens <= 2300

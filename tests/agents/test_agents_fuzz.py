"""Ten thousand broken replies: each becomes a program, an object or a refusal of one line, in bounded time and memory.

They are seeded mutations of replies that the real model gave (tests/data) and of made ones that set traps for a parser.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import BaseModel

from arch_search import agents
from arch_search.agents.recorded import read_recording
from arch_search.agents.replies import parse_json
from arch_search.clean_text import one_line, without_surrogates
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.errors import ProposalError, ReplyError
from arch_search.proposals import rungs
from arch_search.proposals.assignment import Assignment
from arch_search.proposals.registry import BUILT_IN
from arch_search.protocols import ModelReply
from cognition_db.records import Candidate, Rung, candidate_id, canonical_json, to_json

RECORDED = read_recording(Path(__file__).parents[1] / "data" / "recorded_replies.jsonl")
CASES: dict[Rung, int] = {
    "grammar_edit": 2_000,
    "grammar_program": 1_500,
    "toolbox_program": 1_500,
    "method_splice": 2_000,
    "whole_module": 1_000,
}
WITH_A_METHOD = ("grammar_edit", "method_splice")
JSON_CASES = 2_000
CASE_LIMIT_S = 5.0  # of CPU: the slowest reply that becomes a program takes less than a tenth of a second
MEMORY_LIMIT_MB = 400

# characters and pieces that parsers, encodings, terminals and line counters trip over
PIECES = (
    "\0", "\x0c", "\x1b[2J", "\r", "\u2028", "\u202e", "\u200b", "\ufeff", "\ud800", "\udfff", "\U0010ffff", "\\",
    '"""', "'''", "```", "\n```\n", "```python\n", "~~~", "{", "}", "[", "]", "(", ")", ":", "\t", "\n", "    ",
    "#", ";", "@", "def mix(self, q, k, v, x):\n", "class DeltaNet(nn.Module):\n", "return", "lambda: ", "yield ",
    "await ", "*", "**", "0x" + "f" * 9_000, "9" * 9_000, "1e999", "nan", "NaN", "-Infinity", "1_0", "0" * 99,
    "\\ud800", "\\u0000", "null", "self.p.", "self.", "__class__", "f'{", "}'", "match x:\n case ", "x" * 5_000,
    "ﬁ", "ª", "é́",
)  # fmt: skip
DEEP = (
    lambda n: "(" * n + ")" * n,
    lambda n: "[" * n,
    lambda n: "-" * n + "1",
    lambda n: "1" + "+1" * n,
    lambda n: "x" + ".a" * n,
    lambda n: "f" + "(1)" * n,
    lambda n: "not " * n + "x",
    lambda n: "lambda: " * n + "1",
    lambda n: "1 if x else " * n + "1",
    lambda n: '{"a":' * n + "1" + "}" * n,
    lambda n: "".join(f"{' ' * depth}if x:\n" for depth in range(min(n, 150))) + " " * 151 + "pass",
    lambda n: "\n" * n,
    lambda n: "```\n" * n,
    lambda n: "# " + "w" * n,
)


Case = tuple[str, str]  # method and text of a reply


def mutated(text: str, other: str, rng: random.Random) -> str:
    """One to four changes at random places."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(text))
        end = min(len(text), at + rng.choice((1, 3, 20, 200)))
        change = rng.randrange(9)
        if change == 0:
            text = text[:at] + text[end:]
        elif change == 1:
            text = text[:at] + rng.choice(PIECES) + text[at:]
        elif change == 2:
            text = text[:at] + rng.choice(PIECES) + text[end:]
        elif change == 3:
            text = text[:end] + text[at:end] * rng.choice((1, 2, 50)) + text[end:]
        elif change == 4:
            text = text[:at]
        elif change == 5:
            text = text[:at] + other[rng.randint(0, len(other)) :]
        elif change == 6:
            text = text[:at] + rng.choice(DEEP)(rng.choice((40, 95, 120, 2_000, 60_000))) + text[at:]
        elif change == 7:
            text = text[:at] + chr(rng.randrange(0x2FFF)) + text[at + 1 :]
        else:
            text = f"```python\n{text}\n```"
    return text


def fuzzed(seeds: list[Case], count: int, seed: str) -> Iterator[Case]:
    rng = random.Random(seed)
    for _ in range(count):
        method, text = rng.choice(seeds)
        # what the client hands on is text that UTF-8 can hold
        yield method, without_surrogates(mutated(text, rng.choice(seeds)[1], rng))


@contextmanager
def bounded(text: str, limit_s: float = CASE_LIMIT_S) -> Iterator[None]:
    """Fails where the body takes more CPU than a case may, and names the case."""

    def late(number: int, frame: object) -> None:
        raise AssertionError(f"more than {limit_s} s of CPU for {text[:2_000]!r}")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Fails where the largest memory of the process grew beyond the limit during the body."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = peak_mb()
    yield
    assert peak_mb() - before < MEMORY_LIMIT_MB


def peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def candidate(program: str, class_name: str) -> Candidate:
    return Candidate(
        id=candidate_id(program), program=program, class_name=class_name, name="one", arm="evolve", rung="copy",
        generation=0, slot=0, parents=(), motivation="", parameter_count=1,
    )  # fmt: skip


def require_a_reason(error: Exception) -> None:
    assert one_line(str(error), 400).strip()


@pytest.mark.slow
@pytest.mark.parametrize("rung", CASES)
def test_a_broken_reply_becomes_a_program_or_a_refusal(rung: Rung) -> None:
    """A program it becomes can be kept in a file and be the parent of others."""
    parent, made = candidate(SEED_PROGRAM, "DeltaNet"), 0
    methods = rungs.methods_for(rung, parent, BUILT_IN)
    real = [(one.method, one.reply) for one in RECORDED if one.rung == rung]
    real = [one for one in real if not methods or one[0] in methods]
    with bounded_memory():
        for method, text in fuzzed(real, CASES[rung], f"replies on {rung}"):
            with bounded(text):
                try:
                    draft = rungs.program_from_reply(Assignment(rung=rung, parent=parent, method=method), text)
                except ProposalError as error:
                    require_a_reason(error)
                    continue
                canonical_json(to_json(draft)).encode()
                child = candidate(draft.program, draft.class_name)
                assert all(
                    rungs.methods_for(one, child, BUILT_IN)
                    for one in rungs.rungs_for(child, BUILT_IN)
                    if one in WITH_A_METHOD
                )
                made += 1
    assert made > CASES[rung] / 50, "so few became programs that little but the first check was tried"


def schemas() -> list[type[BaseModel]]:
    """Every form that a role of agents/ asks a reply to have."""
    found: set[type[BaseModel]] = set()
    for module in pkgutil.iter_modules(agents.__path__):
        for value in vars(importlib.import_module(f"arch_search.agents.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, BaseModel) and value.model_config.get("extra") == "forbid":
                found.add(value)
    return sorted(found, key=lambda kind: (kind.__module__, kind.__name__))


def test_every_broken_object_is_parsed_or_refused() -> None:
    kinds = schemas()
    assert len(kinds) >= 2
    real = [("", one.reply) for one in RECORDED if one.role in ("judge", "analyst")]
    with bounded_memory():
        for number, (_, text) in enumerate(fuzzed(real, JSON_CASES, "objects")):
            reply = ModelReply(
                text=text, finished=True, model="m", prompt_tokens=1, reply_tokens=1, seconds=0.1,
                prompt_sha256="0" * 64, reply_sha256="0" * 64,
            )  # fmt: skip
            with bounded(text):
                try:
                    parsed = parse_json(reply, kinds[number % len(kinds)])
                except ReplyError as error:
                    require_a_reason(error)
                else:
                    canonical_json(parsed.model_dump()).encode()


def test_the_deadline_of_a_case_ends_a_hang() -> None:
    def hang() -> None:
        with bounded("the hang", 0.2):
            while True:
                pass

    with pytest.raises(AssertionError, match="of CPU for 'the hang'"):
        hang()


def test_there_are_ten_thousand() -> None:
    assert sum(CASES.values()) + JSON_CASES >= 10_000

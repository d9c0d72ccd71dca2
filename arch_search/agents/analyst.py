"""The Analyst: puts a computed result into words. What contradicts the result is dropped, not recorded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from arch_search.agents.messages import Facts, Prompts
from arch_search.agents.packing import lines_by_rank
from arch_search.agents.replies import ask_for_json, prose
from arch_search.config import Sampling
from arch_search.protocols import ModelClient

Outcome = Literal["better", "worse", "within_noise", "not_measured"]

_IN_WORDS: dict[Outcome, str] = {
    "better": "BETTER than the reference, beyond the noise",
    "worse": "WORSE than the reference, beyond the noise",
    "within_noise": "WITHIN THE NOISE of the reference: neither better nor worse can be said",
    "not_measured": "NOT MEASURED: the training did not finish, nothing can be said about its quality",
}
# "to improve" is advice, no claim about the result
_BETTER = re.compile(
    r"(?<!\bto )\b(better|improv\w*|outperform\w*|beneficial|benefits?|gains?|gained|superior|effective(?:ly)?"
    r"|enhanc\w*|boost\w*|helps?|helped|succe\w+)\b"
)
_WORSE = re.compile(
    r"\b(worse\w*|degrad\w*|harm\w*|hurts?|inferior|underperform\w*|detriment\w*|ineffective|deteriorat\w*)\b"
)
_NEGATED = re.compile(r"(?:\b(?:not|no|never|nor|neither|without|cannot|hardly|fail\w*)\b|n't)[^.;:]*$")
_NEGATED_AFTER = re.compile(r"\W+(?:is|was|are|were|does|did|has|have) not\b")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_FEWEST_WORDS = 4
_LONGEST_LESSON = 300  # characters
_LONGEST_TRIGGER = 140


class _Words(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    component: Annotated[str, Field(max_length=60)]
    confidence: Annotated[float, Field(ge=0, le=1)]
    lesson: Annotated[str, Field(max_length=_LONGEST_LESSON)]
    trigger: Annotated[str, Field(max_length=_LONGEST_TRIGGER)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """`text` and `trigger` are empty where the model's words contradicted the result or said nothing."""

    text: str
    component: str
    confidence: float
    trigger: str
    reply_sha256: str


def lesson_text(
    client: ModelClient,
    *,
    motivation: str,
    changed: Sequence[str],
    numbers: str,
    outcome: Outcome,
    prompts: Prompts,
    key: str,
    sampling: Sampling,
) -> Words:
    """What the model says about a result it is given: the part it blames, one lesson, and what was observed.

    Args:
        motivation: what the candidate changed, as derived from the difference of the programs.
        changed: names of the components that it changed.
        numbers: the measured numbers of candidate and relatives, one per line.
        outcome: the computed verdict; the words must agree with it.

    Raises:
        ReplyError: no reply was of the asked form.
        ModelServerError: the server does not answer.
    """
    facts: Facts = {
        "motivation": motivation,
        "changed": ", ".join(changed),
        "numbers": lines_by_rank(numbers, "numbers"),
        "outcome": _IN_WORDS[outcome],
    }
    request = prompts.request("analyst", facts, key=key, sampling=sampling)
    words, reply = ask_for_json(client, request, _Words)
    given = f"{motivation}\n{numbers}"

    def kept(text: str, *, fewest_words: int = _FEWEST_WORDS, longest: int = _LONGEST_LESSON) -> str:
        plain = prose(text, longest)
        return "" if contradiction(plain, outcome=outcome, given=given, fewest_words=fewest_words) else plain

    lesson, component = kept(words.lesson), kept(words.component, fewest_words=1)
    return Words(
        text=f"{component}: {lesson}" if component and lesson else lesson,
        component=component,
        confidence=words.confidence,
        trigger=kept(words.trigger, longest=_LONGEST_TRIGGER),
        reply_sha256=reply.reply_sha256,
    )


def contradiction(text: str, *, outcome: Outcome, given: str, fewest_words: int = _FEWEST_WORDS) -> str:
    """Why the words do not agree with the computed outcome; empty where they do.

    A direction other than the computed one, a number that was not given, and too few words are reasons.
    """
    if says_nothing(text, fewest_words=fewest_words):
        return "says nothing"
    claimed = {name for name, pattern in (("better", _BETTER), ("worse", _WORSE)) if _claims(text, pattern)}
    if claimed - {outcome}:
        return f"says {' and '.join(sorted(claimed))}, computed is {outcome}"
    invented = unfounded_numbers(text, given)
    return f"states numbers that were not given: {', '.join(invented)}" if invented else ""


def says_nothing(text: str, *, fewest_words: int = _FEWEST_WORDS) -> bool:
    return len(re.findall(r"[A-Za-z]{2,}", text)) < fewest_words


def unfounded_numbers(text: str, given: str) -> list[str]:
    """Numbers of the text that stand nowhere in what was given."""
    return sorted(set(_NUMBER.findall(text)) - set(_NUMBER.findall(given)))


def _claims(text: str, pattern: re.Pattern[str]) -> bool:
    """Whether the text asserts what the pattern names, not counting what it denies."""
    lowered = text.lower()
    return any(
        not _NEGATED.search(lowered[: match.start()]) and not _NEGATED_AFTER.match(lowered[match.end() :])
        for match in pattern.finditer(lowered)
    )

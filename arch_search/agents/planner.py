"""The Planner: says what to try next and where the idea comes from. The Coder, who writes it, sees the plan only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from arch_search.agents.messages import Facts, Prompts
from arch_search.agents.replies import ask_for_json, prose
from arch_search.config import Sampling
from arch_search.errors import ReplyError
from arch_search.proposals.assignment import Section
from arch_search.protocols import ModelClient

Origin = Literal["literature", "analysis", "original"]
_FEWEST_WORDS = 3
# characters; a plan of all three stays below what the prompts of the Coder show of it
_LONGEST = 300
_LONGEST_EFFECT = 200


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    idea: Annotated[str, Field(max_length=_LONGEST)]
    mechanism: Annotated[str, Field(max_length=_LONGEST)]
    expected_effect: Annotated[str, Field(max_length=_LONGEST_EFFECT)]
    origin: Origin
    sources: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=6)]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the Planner sees. The `ids` that stand in it, in brackets, may be named as sources."""

    place: str  # where the change goes
    insights: str  # one a line, ours
    program: Sequence[Section]  # what the parent changed against the reference
    numbers: Sequence[Section]
    lesson: str
    learned: str  # in the parent's lineage so far, or in the whole search where the parent is the reference
    tried: Sequence[Section]  # programs made from the parent, and what they gave
    ids: Collection[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`text` is what the Coder follows. `unfounded` are the named sources that were not in the prompt."""

    text: str
    idea: str
    origin: Origin
    sources: tuple[str, ...]
    unfounded: tuple[str, ...]


def make_plan(client: ModelClient, view: View, *, prompts: Prompts, key: str, sampling: Sampling) -> Plan:
    """The plan for one program.

    Raises:
        ReplyError: no reply was of the asked form, or its idea says nothing.
        ModelServerError: the server does not answer.
    """
    facts: Facts = {
        "place": view.place,
        "insights": view.insights,
        "program": view.program,
        "numbers": view.numbers,
        "lesson": view.lesson,
        "learned": view.learned,
        "tried": view.tried,
    }
    request = prompts.request("planner", facts, key=key, sampling=sampling)
    asked = request.messages[-1]["content"]  # what did not fit is no source
    reply, _ = ask_for_json(client, request, _Reply)
    idea, mechanism = prose(reply.idea, _LONGEST), prose(reply.mechanism, _LONGEST)
    effect = prose(reply.expected_effect, _LONGEST_EFFECT)
    if len(idea.split()) < _FEWEST_WORDS:
        raise ReplyError(f"{key}: the plan has no idea in it: {idea!r}")
    sources = tuple(dict.fromkeys(prose(source, _LONGEST).strip("[]") for source in reply.sources))
    return Plan(
        text=" ".join(filter(None, (idea, mechanism and f"Why: {mechanism}", effect and f"Expected: {effect}"))),
        idea=idea,
        origin=reply.origin,
        sources=tuple(filter(None, sources)),
        unfounded=tuple(source for source in sources if source and not (source in view.ids and f"[{source}]" in asked)),
    )

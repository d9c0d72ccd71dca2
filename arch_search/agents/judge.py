"""The Judge: a recorded opinion on a program. It never ranks anything unless its measured correlation earns it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from arch_search.agents.known_programs import Anchor
from arch_search.agents.messages import Prompts
from arch_search.agents.replies import ask_for_json
from arch_search.config import Sampling
from arch_search.proposals.difference import changed_definitions
from arch_search.protocols import ModelClient

_Mark = Annotated[int, Field(ge=1, le=10)]


class _Marks(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    effectiveness: _Mark
    novelty: _Mark
    complexity: _Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """Marks from 1 to 10, higher is better (complexity 10: as simple as its effect allows); `score` is their mean."""

    score: float
    effectiveness: int
    novelty: int
    complexity: int
    reply_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What every program is marked against: the same in all calls, so that the server's prefix cache holds it."""

    reference: str  # its program text
    anchors: tuple[Anchor, ...]
    effectiveness: str  # what this mark asks, after "how likely it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A program to be marked, and its change against its parent in words."""

    program: str
    motivation: str


def score(
    client: ModelClient,
    subject: Subject,
    *,
    scale: Scale,
    prompts: Prompts,
    key: str,
    sampling: Sampling,
    after: tuple[Subject, Opinion] | None = None,
) -> Opinion:
    """The model's marks for a program.

    `after`: a program of ours and its marks that stand before it as an earlier turn of the conversation.

    Raises:
        ReplyError: no reply had the three marks in range.
        ModelServerError: the server does not answer.
    """
    facts = {
        "reference": changed_definitions("", scale.reference),
        "anchors": "\n".join(map(_anchor, scale.anchors)),
        "effectiveness": scale.effectiveness,
    }
    earlier = [(_shown(after[0], scale), _marks(after[1]))] if after else []
    request = prompts.request(
        "judge", {**facts, **_shown(subject, scale)}, key=key, sampling=sampling, examples=earlier
    )
    marks, reply = ask_for_json(client, request, _Marks)
    return Opinion(
        score=(marks.effectiveness + marks.novelty + marks.complexity) / 3,
        effectiveness=marks.effectiveness,
        novelty=marks.novelty,
        complexity=marks.complexity,
        reply_sha256=reply.reply_sha256,
    )


def _shown(subject: Subject, scale: Scale) -> dict[str, str]:
    """The program as the Judge sees it: what differs from the reference, without comments and docstrings."""
    changed = changed_definitions(scale.reference, subject.program)
    return {"program": changed or "nothing", "motivation": subject.motivation}


def _anchor(one: Anchor) -> str:
    return f"- {one.name}: {one.description} {_marks(one)}: {one.why}"


def _marks(marked: Opinion | Anchor) -> str:
    marks = {name: getattr(marked, name) for name in ("effectiveness", "novelty", "complexity")}
    return json.dumps(marks, separators=(",", ":"))

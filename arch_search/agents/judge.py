"""The Judge: a recorded opinion on a program. It never ranks anything unless its measured correlation earns it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from arch_search.agents.messages import Prompts
from arch_search.agents.replies import ask_for_json
from arch_search.config import Sampling
from arch_search.protocols import ModelClient

_MAX_PROGRAM_CHARACTERS = 6000
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


def score(
    client: ModelClient, *, program: str, motivation: str, prompts: Prompts, key: str, sampling: Sampling
) -> Opinion:
    """The model's marks for a program.

    Raises:
        ReplyError: no reply had the three marks in range.
        ModelServerError: the server does not answer.
    """
    facts = {"program": _shown(program), "motivation": motivation}
    request = prompts.request("judge", facts, key=key, sampling=sampling)
    marks, reply = ask_for_json(client, request, _Marks)
    return Opinion(
        score=(marks.effectiveness + marks.novelty + marks.complexity) / 3,
        effectiveness=marks.effectiveness,
        novelty=marks.novelty,
        complexity=marks.complexity,
        reply_sha256=reply.reply_sha256,
    )


def _shown(program: str) -> str:
    """The classes without comments: short, and alike at the start for the prefix cache of the server."""
    classes = [node for node in ast.parse(program).body if isinstance(node, ast.ClassDef)]
    return "\n\n".join(ast.unparse(node) for node in classes)[:_MAX_PROGRAM_CHARACTERS]

"""The Summariser: rewrites a rolling summary in few words. Numbers that it was not given are not recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from arch_search.agents.analyst import says_nothing, unfounded_numbers
from arch_search.agents.messages import Facts, Prompts
from arch_search.agents.replies import ask_for_json, prose
from arch_search.config import Sampling
from arch_search.proposals.assignment import Section
from arch_search.protocols import ModelClient

_LONGEST = 400  # characters


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    summary: Annotated[str, Field(max_length=_LONGEST)]


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a summary is renewed from: the words before, the computed outcomes so far, and the newest lessons."""

    scope: str
    previous: str
    computed: str
    lessons: tuple[Section, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryWords:
    """`text` is empty where the model's words said nothing or named a number that was not given."""

    text: str
    reply_sha256: str


def summarise(client: ModelClient, news: News, *, prompts: Prompts, key: str, sampling: Sampling) -> SummaryWords:
    """The model's words, at most 400 characters.

    Raises:
        ReplyError: no reply was of the asked form.
        ModelServerError: the server does not answer.
    """
    facts: Facts = {"scope": news.scope, "previous": news.previous, "computed": news.computed, "lessons": news.lessons}
    request = prompts.request("summariser", facts, key=key, sampling=sampling)
    parsed, reply = ask_for_json(client, request, _Reply)
    text = prose(parsed.summary, _LONGEST)
    given = "\n".join([news.previous, news.computed, *(one.text for one in news.lessons)])
    kept = "" if says_nothing(text) or unfounded_numbers(text, given) else text
    return SummaryWords(text=kept, reply_sha256=reply.reply_sha256)

"""Reviewers: marks on an admitted program for what no check can run. They refuse nothing and change no number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from arch_search.agents.fence import neutral
from arch_search.agents.messages import Facts, Prompts
from arch_search.agents.replies import ask_for_json
from arch_search.config import Sampling
from arch_search.errors import ReplyError
from arch_search.proposals.assignment import Section
from arch_search.protocols import ModelClient
from cognition_db.records import Outcome, Verdict

_OUTCOMES: dict[str, Outcome] = {"yes": "passed", "no": "failed", "unsure": "unknown"}


class _Opinion(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    # first, so that the answer is written after it
    reason: Annotated[str, Field(max_length=240)]
    answer: Literal["yes", "no", "unsure"]


def review_novelty(
    client: ModelClient,
    *,
    change: str,
    nearest: Sequence[Section],
    prompts: Prompts,
    key: str,
    sampling: Sampling,
) -> Verdict:
    """Whether the change does something that none of the `nearest` earlier programs does; a mark, see `_mark`."""
    return _mark(client, "review_novelty", {"change": change, "nearest": nearest}, prompts, key, sampling)


def review_code(
    client: ModelClient, *, idea: str, program: Sequence[Section], prompts: Prompts, key: str, sampling: Sampling
) -> Verdict:
    """Whether the program does what its idea says; a mark, see `_mark`."""
    return _mark(client, "review_code", {"idea": idea, "program": program}, prompts, key, sampling)


def _mark(client: ModelClient, check: str, facts: Facts, prompts: Prompts, key: str, sampling: Sampling) -> Verdict:
    """The opinion as a verdict that refuses nothing; unknown where no reply was of use.

    Raises:
        ModelServerError: the server does not answer.
    """
    request = prompts.request(check, facts, key=key, sampling=sampling)
    try:
        opinion, reply = ask_for_json(client, request, _Opinion)
    except ReplyError as error:
        return Verdict(check=check, outcome="unknown", reason=f"no opinion: {error}")
    return Verdict(
        check=check,
        outcome=_OUTCOMES[opinion.answer],
        reason=" ".join(neutral(opinion.reason).split()) or "no reason given",
        evidence={"reply_sha256": reply.reply_sha256},
    )

"""The Engineer: repairs a program from the reasons it was refused for, or was not proved causal, while that pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from arch_search.agents.messages import messages_of, text_of
from arch_search.agents.replies import ask_for_text
from arch_search.config import Sampling
from arch_search.proposals.assignment import Assignment
from arch_search.proposals.rungs import writing_task
from arch_search.protocols import ModelClient, ModelReply, ModelRequest
from cognition_db.records import Verdict

_MAX_REASON_CHARACTERS = 600


def repair(
    client: ModelClient,
    assignment: Assignment,
    *,
    refused: str,
    verdicts: Sequence[Verdict],
    key: str,
    sampling: Sampling,
) -> ModelReply:
    """A second reply to the assignment, in the form of its rung, after `refused` and what the checks said of it.

    The Researcher's conversation goes on, so that the server's prefix cache holds all but the last two turns.

    Raises:
        ReplyError: only empty replies, or the request is too long for the model.
        ModelServerError: the server does not answer.
    """
    task = writing_task(assignment)
    turns = (
        *messages_of(task.template, task.facts, task.examples),
        {"role": "assistant", "content": refused},
        {
            "role": "user",
            "content": text_of("engineer", {"refused": _refusing(verdicts), "unproved": _unproved(verdicts)}),
        },
    )
    request = ModelRequest(
        key=key,
        role="engineer",
        messages=turns,
        sampling=replace(sampling, max_tokens=min(task.max_tokens, sampling.max_tokens)),
        grammar=task.grammar,
        hints=task.hints,
    )
    return ask_for_text(client, request)


def _refusing(verdicts: Sequence[Verdict]) -> str:
    """The refusing verdicts, one per line, each bounded."""
    refusing = [verdict for verdict in verdicts if verdict.refuses]
    return "\n".join(f"- {verdict.check}: {verdict.reason[:_MAX_REASON_CHARACTERS]}" for verdict in refusing)


def lost_proofs(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Where the proof of causality was lost; nothing where there is one."""
    return [verdict for verdict in verdicts if verdict.check == "certificate" and verdict.outcome == "unknown"]


def _unproved(verdicts: Sequence[Verdict]) -> str:
    """The same as text, one per line, each bounded."""
    return "\n".join(f"- {verdict.reason[:_MAX_REASON_CHARACTERS]}" for verdict in lost_proofs(verdicts))


def repair_pays(tries: int, successes: int, *, min_tries: int, stop_share: float) -> bool:
    """Whether to go on repairing: until `min_tries` repairs were made, then while enough of them succeed.

    A 1.5B model repaired 1 of 21 programs (mostly the same text came back), so asking anew is cheaper there.
    """
    return tries < min_tries or successes >= stop_share * tries

"""The Engineer: repairs a program from the reasons it was refused for, or was not proved causal, while that pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from arch_search.agents.fence import neutral
from arch_search.agents.messages import Prompts
from arch_search.agents.replies import ask_for_text
from arch_search.agents.researcher import request_for
from arch_search.config import Sampling
from arch_search.proposals.assignment import Assignment
from arch_search.protocols import ModelClient, ModelReply
from cognition_db.records import Verdict

_MAX_REASON_CHARACTERS = 600


def repair(
    client: ModelClient,
    assignment: Assignment,
    *,
    refused: str,
    verdicts: Sequence[Verdict],
    prompts: Prompts,
    after: str,
    key: str,
    sampling: Sampling,
) -> ModelReply:
    """A second reply to the assignment, in the form of its rung, after `refused` and what the checks said of it.

    The Researcher's conversation `after` goes on, so that the server's prefix cache holds all but the last two turns.

    Raises:
        ReplyError: only empty replies, or the request is too long for the model.
        ModelServerError: the server does not answer.
    """
    facts = {"refused": _refusing(verdicts), "unproved": _unproved(verdicts)}
    question, label = prompts.turn("engineer", facts, key=key)
    turns = ({"role": "assistant", "content": neutral(refused)}, {"role": "user", "content": question})
    # what was shown of the parent gives way where the two turns need its room
    earlier = prompts.with_room_for(*(turn["content"] for turn in turns))
    asked = request_for(assignment, prompts=earlier, key=after, sampling=sampling)
    request = replace(asked, key=key, role="engineer", messages=(*asked.messages, *turns), prompt=label)
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

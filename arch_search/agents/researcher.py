"""The Researcher: designs and writes; one call per try at a slot, on the rung the framework drew."""

from __future__ import annotations

from dataclasses import replace

from arch_search.agents.messages import messages_of
from arch_search.agents.replies import ask_for_text
from arch_search.config import Sampling
from arch_search.proposals.assignment import Assignment
from arch_search.proposals.rungs import writing_task
from arch_search.protocols import ModelClient, ModelReply, ModelRequest


def write(client: ModelClient, assignment: Assignment, *, key: str, sampling: Sampling) -> ModelReply:
    """The model's reply to the assignment; `proposals.rungs.program_from_reply` makes a program of it.

    The rung says how many tokens its form needs, `sampling.max_tokens` is the upper limit of the role.

    Raises:
        ProposalError: parent and rung do not fit.
        ReplyError: only empty replies, or the request is too long for the model.
        ModelServerError: the server does not answer.
    """
    task = writing_task(assignment)
    request = ModelRequest(
        key=key,
        role="researcher",
        messages=messages_of(task.template, task.facts, task.examples),
        sampling=replace(sampling, max_tokens=min(task.max_tokens, sampling.max_tokens)),
        grammar=task.grammar,
        hints=task.hints,
    )
    return ask_for_text(client, request)

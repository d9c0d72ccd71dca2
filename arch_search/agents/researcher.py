"""The Researcher: designs and writes; one call per try at a slot, on the rung the framework drew."""

from __future__ import annotations

from dataclasses import replace

from arch_search.agents.messages import Prompts
from arch_search.agents.replies import ask_for_text
from arch_search.config import Sampling
from arch_search.proposals.assignment import Assignment
from arch_search.proposals.rungs import writing_task
from arch_search.protocols import ModelClient, ModelReply, ModelRequest


def write(client: ModelClient, assignment: Assignment, *, prompts: Prompts, key: str, sampling: Sampling) -> ModelReply:
    """The model's reply to the assignment; `proposals.rungs.program_from_reply` makes a program of it.

    The rung says how many tokens its form needs, `sampling.max_tokens` is the upper limit of the role.

    Raises:
        ProposalError: parent and rung do not fit.
        ReplyError: only empty replies, or the request is too long for the model.
        ModelServerError: the server does not answer.
    """
    return ask_for_text(client, request_for(assignment, prompts=prompts, key=key, sampling=sampling))


def request_for(assignment: Assignment, *, prompts: Prompts, key: str, sampling: Sampling) -> ModelRequest:
    """What `write` asks first; raises ProposalError where parent and rung do not fit."""
    task = writing_task(assignment)
    sampling = replace(sampling, max_tokens=min(task.max_tokens, sampling.max_tokens))
    request = prompts.request(task.template, task.facts, key=key, sampling=sampling, examples=task.examples)
    return replace(request, grammar=task.grammar, hints={**request.hints, **task.hints})

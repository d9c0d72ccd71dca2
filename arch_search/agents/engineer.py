"""The Engineer: repairs a refused program from the reasons it was refused for, while that pays."""

from __future__ import annotations

from collections.abc import Sequence

from arch_search.agents.messages import messages_of
from arch_search.agents.replies import ask_for_text
from arch_search.config import Sampling
from arch_search.protocols import ModelClient, ModelReply, ModelRequest
from cognition_db.records import Verdict

_MAX_REASON_CHARACTERS = 600


def repair(
    client: ModelClient,
    *,
    program: str,
    verdicts: Sequence[Verdict],
    motivation: str,
    key: str,
    sampling: Sampling,
) -> ModelReply:
    """A reply of the whole-module form (JSON header, then one fenced program) for a refused program.

    Raises:
        ReplyError: only empty replies, or the program is too long for the model.
        ModelServerError: the server does not answer.
    """
    facts = {"program": program.strip(), "motivation": motivation, "failures": failures(verdicts)}
    request = ModelRequest(
        key=key, role="engineer", messages=messages_of("engineer", facts), sampling=sampling, hints={}
    )
    return ask_for_text(client, request)


def failures(verdicts: Sequence[Verdict]) -> str:
    """The refusing verdicts, one per line, each bounded."""
    refusing = [verdict for verdict in verdicts if verdict.refuses]
    return "\n".join(f"- {verdict.check}: {verdict.reason[:_MAX_REASON_CHARACTERS]}" for verdict in refusing)


def repair_pays(tries: int, successes: int, *, min_tries: int, stop_share: float) -> bool:
    """Whether to go on repairing: until `min_tries` repairs were made, then while enough of them succeed.

    A 1.5B model repaired 1 of 21 programs (mostly the same text came back), so asking anew is cheaper there.
    """
    return tries < min_tries or successes >= stop_share * tries

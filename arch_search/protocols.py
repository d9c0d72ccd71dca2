"""Plug points, without torch: what the loop asks of a language model and how it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from arch_search.config import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One call of a role.

    `key` names the call inside the campaign ("g0001/s003/t0/researcher"): a restarted driver that finds the answer
    to a key in the call log does not ask again. `hints` (role, rung, method) let a recording choose a reply. `prompt`
    names the prompt and its version, as judge@3.
    At most one of `grammar` (GBNF, xgrammar dialect) and `json_schema` is set; none means free text. With `embeds` the
    messages are texts to embed, and the reply is a JSON list with the vector of each, float32 in base64.
    """

    key: str
    role: str
    messages: tuple[dict[str, str], ...]
    sampling: Sampling
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    hints: dict[str, str] = field(default_factory=dict)
    prompt: str = ""
    embeds: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReply:
    """`finished` is false where the reply was cut by max_tokens."""

    text: str
    finished: bool
    model: str
    prompt_tokens: int
    reply_tokens: int
    seconds: float
    prompt_sha256: str
    reply_sha256: str


class ModelClient(Protocol):
    """Whatever answers a role: a vLLM server, another OpenAI-compatible server, or a recording of one."""

    def complete(self, request: ModelRequest) -> ModelReply:
        """The reply; raises ModelServerError when the server cannot answer after bounded retries."""
        ...

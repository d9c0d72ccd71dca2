"""Replies: what a model sent, stripped and validated again. A schema forced by the server is never taken on trust."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from arch_search.errors import ReplyError
from arch_search.protocols import ModelClient, ModelReply, ModelRequest

_FENCED = re.compile(r"^\s*```[A-Za-z0-9_+-]*[ \t]*\n(?P<inside>.*?)\n?```\s*$", re.DOTALL)
_ATTEMPTS = 2

Parsed = TypeVar("Parsed", bound=BaseModel)


def ask_for_text(client: ModelClient, request: ModelRequest) -> ModelReply:
    """A reply with something in it, asked for at most twice.

    Raises:
        ReplyError: only whitespace came back.
        ModelServerError: the server does not answer.
    """
    for attempt in range(_ATTEMPTS):
        reply = client.complete(_numbered(request, attempt))
        if reply.text.strip():
            return reply
    raise ReplyError(f"{request.key}: the model sent an empty reply, {_ATTEMPTS} times")


def ask_for_json(client: ModelClient, request: ModelRequest, kind: type[Parsed]) -> tuple[Parsed, ModelReply]:
    """An object of `kind` and the reply it came in, asked for at most twice with the schema of `kind`.

    Raises:
        ReplyError: no reply was such an object; says what the last one was instead.
        ModelServerError: the server does not answer.
    """
    request = replace(request, json_schema=schema_of(kind))
    reason = ""
    for attempt in range(_ATTEMPTS):
        reply = client.complete(_numbered(request, attempt))
        try:
            return parse_json(reply, kind), reply
        except ReplyError as error:
            reason = str(error)
    raise ReplyError(f"{request.key}: {reason}")


def parse_json(reply: ModelReply, kind: type[Parsed]) -> Parsed:
    """The one JSON object of the reply; raises ReplyError where it is empty, prose, cut or of another form."""
    text = strip_fence(reply.text)
    if not text:
        raise ReplyError("the reply is empty")
    try:
        return kind.model_validate(json.loads(text))
    except json.JSONDecodeError:
        what = "is not JSON" if reply.finished else "was cut by max_tokens before its JSON was whole"
        raise ReplyError(f"the reply {what}: {_start(text)}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ReplyError(f"the reply does not fit the schema: {where}: {first['msg']}") from None
    except RecursionError:
        raise ReplyError("the reply is JSON nested too deep") from None


def strip_fence(text: str) -> str:
    """The text without blanks around it and without a code fence around all of it."""
    match = _FENCED.match(text)
    return (match["inside"] if match else text).strip()


def schema_of(kind: type[BaseModel]) -> dict[str, object]:
    """The JSON schema of a flat model, in the plain form every server's decoder knows."""
    schema = kind.model_json_schema()
    properties = {
        name: {k: v for k, v in field.items() if k != "title"} for name, field in schema["properties"].items()
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _numbered(request: ModelRequest, attempt: int) -> ModelRequest:
    """A second attempt is another call, under its own key in the call log."""
    return replace(request, key=f"{request.key}/again-{attempt}") if attempt else request


def _start(text: str) -> str:
    return repr(" ".join(text.split())[:60])

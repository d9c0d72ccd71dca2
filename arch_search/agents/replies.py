"""Replies: what a model sent, stripped and validated again. A schema forced by the server is never taken on trust."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from arch_search.clean_text import clean, one_line
from arch_search.errors import ReplyError
from arch_search.protocols import ModelClient, ModelReply, ModelRequest

_FENCED = re.compile(r"^\s*```[A-Za-z0-9_+-]*[ \t]*\n(?P<inside>.*?)\n?```\s*$", re.DOTALL)
_ATTEMPTS = 2
_SHOWN = 200  # characters of what the reply holds

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
        return kind.model_validate(json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant))
    except json.JSONDecodeError:
        what = "is not JSON" if reply.finished else "was cut by max_tokens before its JSON was whole"
        raise ReplyError(f"the reply {what}: {_start(text)}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = one_line(".".join(str(part) for part in first["loc"]), _SHOWN) or "the whole"
        raise ReplyError(f"the reply does not fit the schema: {where}: {first['msg']}") from None
    except RecursionError:
        raise ReplyError("the reply is JSON nested too deep") from None
    # as Python says of an integer of more digits than it reads
    except ValueError as error:
        raise ReplyError(f"the reply holds a value that is not read: {one_line(str(error), _SHOWN)}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object with clean texts; ReplyError where a name comes twice, as it is not known which one is meant."""
    found = {clean(name): _cleaned(value) for name, value in pairs}
    if len(found) < len(pairs):
        raise ReplyError(f"the reply names a key twice: {one_line(', '.join(name for name, _ in pairs), _SHOWN)}")
    return found


def _cleaned(value: Any) -> Any:
    """Escapes in JSON can write what no file or terminal takes; an object inside was cleaned before."""
    if isinstance(value, str):
        return clean(value)
    return [_cleaned(one) for one in value] if isinstance(value, list) else value


def _refuse_constant(name: str) -> Any:
    raise ReplyError(f"the reply holds {name}, which is no JSON")


def prose(text: str, longest: int) -> str:
    """A field on one line; where the server stopped it at its limit, without the sentence that it broke off."""
    line = " ".join(text.split())
    whole = line[: line.rfind(". ") + 1] if len(text) >= longest else ""
    return (whole or line).strip(" ,;")


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
    return repr(one_line(text[:200], 60))

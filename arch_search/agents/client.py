"""The client of an OpenAI-compatible server: bounded retries, a deadline per request, every answer in the call log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import openai
from pydantic import BaseModel, Field, ValidationError

from arch_search.agents.call_log import CallLog, prompt_text
from arch_search.config import Llm
from arch_search.errors import ModelServerError, ReplyError
from arch_search.protocols import ModelReply, ModelRequest
from cognition_db.records import sha256_text

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0
_MAX_ANSWER_BYTES = 8_000_000


class ServerAddress(Protocol):
    """What the client must know of a server; serving/endpoint.py has it."""

    @property
    def base_url(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def api_key(self) -> str: ...
    @property
    def is_local(self) -> bool: ...


OnDown = Callable[[], ServerAddress | None]


class Servers(Protocol):
    """Where requests go; safe for use from several threads."""

    @property
    def are_replaced(self) -> bool:
        """Whether another server may answer the next attempt: then a refusal of the key is no last word."""
        ...

    def take(self) -> ServerAddress:
        """The server for the next attempt; waits until there is one. Raises ModelServerError when none comes."""
        ...

    def give_back(self, address: Any, *, failed: bool) -> None:
        """The attempt at the server that `take` gave is over."""
        ...


class OneServer:
    """The Servers of a single address.

    `on_down` is called, once per failure and by one thread, before the next attempt at a server that could not be
    reached or answered nothing of use; it may start the server again and return its new address, or None to go on
    with the old one.
    """

    are_replaced = False

    def __init__(self, endpoint: ServerAddress, on_down: OnDown | None = None) -> None:
        self._address = endpoint
        self._on_down = on_down
        self._is_down = False
        self._guard = threading.Lock()

    def take(self) -> ServerAddress:
        with self._guard:
            if self._is_down and self._on_down is not None:
                self._address = self._on_down() or self._address
            self._is_down = False
            return self._address

    def give_back(self, address: ServerAddress, *, failed: bool) -> None:
        with self._guard:
            # of threads that failed on an address already replaced nothing is to be done
            self._is_down = self._is_down or (failed and address is self._address)


class _TransientError(Exception):
    """Worth another attempt: no connection, no answer in time, an error of the server, an answer without a text."""


class OpenAiClient:
    """A ModelClient over the chat completions of OpenAI-compatible servers; safe for use from several threads."""

    def __init__(
        self, servers: Servers, *, llm: Llm, log: CallLog, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._servers = servers
        self._llm = llm
        self._log = log
        self._sleep = sleep
        self._guard = threading.Lock()
        self._libraries: dict[tuple[str, str], openai.OpenAI] = {}

    def complete(self, request: ModelRequest) -> ModelReply:
        """The reply, from the call log where the key was answered before.

        Raises:
            ReplyError: the server refuses this one request (too long, a grammar it does not know).
            ModelServerError: it refuses all of ours (key, model name), or gave no usable answer in
                1 + `llm.retries` attempts.
        """
        known = self._log.find(request.key)
        if known is not None:
            return known
        failure, attempts = "", 1 + self._llm.retries
        for attempt in range(attempts):
            if attempt:
                self._sleep(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (attempt - 1)))
            address, failed = self._servers.take(), False
            try:
                reply = self._ask(address, request)
            except _TransientError as error:
                failure, failed = str(error), True
                continue
            finally:
                self._servers.give_back(address, failed=failed)
            self._log.record(request, reply)
            return reply
        raise ModelServerError(
            f"{request.key}: no answer from {address.base_url} in {attempts} attempts; the last one: {failure}"
        )

    def _library(self, address: ServerAddress) -> openai.OpenAI:
        with self._guard:
            name = (address.base_url, address.api_key)
            if name not in self._libraries:
                self._libraries[name] = self._connect(address)
            return self._libraries[name]

    def _connect(self, address: ServerAddress) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=address.base_url,
            api_key=address.api_key,
            timeout=self._llm.request_limit_s,
            max_retries=0,
            # a proxy named in the environment does not know this host's loopback
            http_client=openai.DefaultHttpxClient(trust_env=False) if address.is_local else None,
        )

    def _ask(self, address: ServerAddress, request: ModelRequest) -> ModelReply:
        began = time.monotonic()
        try:
            arguments = _arguments(address.model, request)
            with self._library(address).chat.completions.with_streaming_response.create(**arguments) as response:
                body = self._body(response.iter_bytes(), deadline=began + self._llm.request_limit_s)
        except openai.APITimeoutError:
            raise _TransientError(self._too_slow()) from None
        except openai.APIConnectionError as error:
            raise _TransientError(f"no connection ({_one_line(str(error.__cause__ or error))})") from error
        except openai.APIStatusError as error:
            message = f"HTTP {error.status_code}: {_one_line(error.message)}"
            if error.status_code >= 500 or error.status_code in (408, 409, 425, 429):
                raise _TransientError(message) from error
            if error.status_code in (400, 413, 422):
                raise ReplyError(f"{request.key}: the server refuses this request, {message}") from error
            if self._servers.are_replaced:
                # a stranger may have got the port of a server that ended
                raise _TransientError(message) from error
            raise ModelServerError(
                f"{request.key}: {address.base_url} refuses us, {message}; check the key and llm.model"
            ) from error
        return _reply(body, request, seconds=time.monotonic() - began)

    def _body(self, chunks: Iterator[bytes], *, deadline: float) -> bytes:
        """The whole body; the library's own limit is per read, so a server that drips would hold us for ever."""
        body = bytearray()
        try:
            for chunk in chunks:
                body += chunk
                if time.monotonic() > deadline:
                    raise _TransientError(self._too_slow())
                if len(body) > _MAX_ANSWER_BYTES:
                    raise _TransientError(f"an answer of more than {_MAX_ANSWER_BYTES} bytes")
        except _TransientError:
            raise
        # below openai lies httpx or httpx2, by its version; whatever it raises here means a broken connection
        except Exception as error:
            raise _TransientError(f"the connection broke ({_one_line(str(error)) or type(error).__name__})") from error
        return bytes(body)

    def _too_slow(self) -> str:
        return f"no whole answer within llm.request_limit_s={self._llm.request_limit_s}"


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(BaseModel):
    """What is read of a chat completion; the library itself does not validate what a server sends."""

    model: str = ""
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def _arguments(model: str, request: ModelRequest) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": model,
        "messages": list(request.messages),
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "max_tokens": request.sampling.max_tokens,
    }
    if request.grammar is not None:
        arguments["extra_body"] = {"structured_outputs": {"grammar": request.grammar}}
    elif request.json_schema is not None:
        schema = {"name": request.role, "schema": request.json_schema, "strict": True}
        arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
    return arguments


def _reply(body: bytes, request: ModelRequest, *, seconds: float) -> ModelReply:
    try:
        answer = _Answer.model_validate_json(body)
    except ValidationError:
        start = _one_line(body[:80].decode("utf-8", errors="replace"))
        raise _TransientError(f"an answer that is no chat completion: {start!r}") from None
    choice, usage = answer.choices[0], answer.usage or _Usage()
    text = choice.message.content or ""
    return ModelReply(
        text=text,
        finished=choice.finish_reason == "stop",
        model=answer.model,
        prompt_tokens=usage.prompt_tokens,
        reply_tokens=usage.completion_tokens,
        seconds=seconds,
        prompt_sha256=sha256_text(prompt_text(request)),
        reply_sha256=sha256_text(text),
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]

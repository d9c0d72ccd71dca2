"""The client of an OpenAI-compatible server: bounded retries, a deadline per request, every answer in the call log."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ClassVar, Protocol

import openai
from pydantic import BaseModel, Field

from arch_search.agents.call_log import CallLog, prompt_text
from arch_search.agents.embedding import EmbeddingAnswer, embedding_arguments
from arch_search.clean_text import one_line, without_surrogates
from arch_search.config import Llm
from arch_search.errors import ModelServerError, ReplyError
from arch_search.protocols import ModelReply, ModelRequest
from cognition_db.records import sha256_text

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0
_MAX_ANSWER_BYTES = 8_000_000
_MAX_ERROR_BYTES = 64_000
_MOST_TOKENS = 100_000_000
_SHOWN = 200  # characters of a server's own words


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
            except ReplyError as error:
                raise self._log.refuse(request, str(error)) from error
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
            http_client=openai.DefaultHttpxClient(
                # a proxy named in the environment does not know this host's loopback
                trust_env=not address.is_local,
                event_hooks={"response": [_refuse_errors]},
            ),
        )

    def _ask(self, address: ServerAddress, request: ModelRequest) -> ModelReply:
        began, limit_s = time.monotonic(), self._llm.request_limit_s
        try:
            body = _in_time(lambda: self._body(address, request, deadline=began + limit_s), limit_s=limit_s)
        except (TimeoutError, openai.APITimeoutError):
            raise _TransientError(f"no whole answer within llm.request_limit_s={limit_s}") from None
        except (_HttpError, openai.APIConnectionError) as error:
            # older versions of the library wrap what a hook raises
            answer = error if isinstance(error, _HttpError) else error.__cause__
            if isinstance(answer, _HttpError):
                raise self._refusal(address, request, answer) from error
            raise _TransientError(f"no connection ({one_line(str(answer or error), _SHOWN)})") from error
        return _reply(body, request, seconds=time.monotonic() - began)

    def _body(self, address: ServerAddress, request: ModelRequest, *, deadline: float) -> bytes:
        """The whole body of the answer. After the deadline nobody waits for it any more, so it is not read on."""
        library = self._library(address)
        create = (library.embeddings if request.embeds else library.chat.completions).with_streaming_response.create
        with create(**_arguments(address.model, request)) as response:
            body = bytearray()
            try:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > _MAX_ANSWER_BYTES or time.monotonic() > deadline:
                        break
            # below openai lies httpx or httpx2, by its version; whatever it raises here means a broken connection
            except Exception as error:
                reason = one_line(str(error), _SHOWN) or type(error).__name__
                raise _TransientError(f"the connection broke ({reason})") from error
        if len(body) > _MAX_ANSWER_BYTES:
            raise _TransientError(f"an answer of more than {_MAX_ANSWER_BYTES} bytes")
        return bytes(body)

    def _refusal(self, address: ServerAddress, request: ModelRequest, answer: _HttpError) -> Exception:
        """What a status other than 200 means: try again, not this request, or none of ours."""
        if answer.status >= 500 or answer.status in (408, 409, 425, 429):
            return _TransientError(str(answer))
        if answer.status in (400, 413, 422):
            return ReplyError(f"{request.key}: the server refuses this request, {answer}")
        if self._servers.are_replaced:
            # a stranger may have got the port of a server that ended
            return _TransientError(str(answer))
        return ModelServerError(
            f"{request.key}: {address.base_url} refuses us, {answer}; check the address, the key and the model's name"
        )


class _HttpError(Exception):
    """An answer with a status other than 2xx."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


def _refuse_errors(response: Any) -> None:
    """Called by the HTTP library with every answer before its body is read.

    The library would read the body of an error whole, however long it is, and would follow a redirection, with the
    prompt, to wherever it points.
    """
    if response.is_success:
        return
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _MAX_ERROR_BYTES:
            break
    raise _HttpError(response.status_code, one_line(body.decode("utf-8", "replace"), _SHOWN))


def _in_time(work: Callable[[], bytes], *, limit_s: float) -> bytes:
    """What `work` returns or raises; TimeoutError where it takes longer.

    The HTTP library has limits per read only: a server that drips, be it the headers, would hold the caller for ever.
    The thread that is left behind ends with its connection.
    """
    outcome: Future[bytes] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="request", daemon=True).start()
    return outcome.result(timeout=limit_s)


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Answer(BaseModel):
    """What is read of a chat completion; the library itself does not validate what a server sends."""

    NAME: ClassVar[str] = "chat completion"
    model: str = ""
    choices: list[_Choice] = Field(min_length=1)
    usage: Any = None

    def content(self, count: int) -> tuple[str, bool]:
        """The text, and whether the model ended it itself; `count`, of the messages, does not matter."""
        choice = self.choices[0]
        return without_surrogates(choice.message.content or ""), choice.finish_reason == "stop"


def _arguments(model: str, request: ModelRequest) -> dict[str, Any]:
    if request.embeds:
        return embedding_arguments(model, request)
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
    form: type[_Answer | EmbeddingAnswer] = EmbeddingAnswer if request.embeds else _Answer
    shown = body.decode("utf-8", "replace")
    try:
        answer = form.model_validate(json.loads(shown))
        text, finished = answer.content(len(request.messages))
    except (ValueError, RecursionError):
        raise _TransientError(f"an answer that is no {form.NAME}: {one_line(shown[:80])!r}") from None
    return ModelReply(
        text=text,
        finished=finished,
        model=one_line(answer.model, _SHOWN),
        prompt_tokens=_tokens(answer.usage, "prompt_tokens"),
        reply_tokens=_tokens(answer.usage, "completion_tokens"),
        seconds=seconds,
        prompt_sha256=sha256_text(prompt_text(request)),
        reply_sha256=sha256_text(text),
    )


def _tokens(usage: Any, name: str) -> int:
    """A count of the server's; 0 where it is none, as the reply is worth more than its price."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and 0 <= count <= _MOST_TOKENS else 0

"""The call log: every answered call of the language model, found again by its key after a restart."""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arch_search.errors import ReplyError
from arch_search.protocols import ModelReply, ModelRequest
from cognition_db.experience.files import write_atomic
from cognition_db.experience.journal import Journal, read
from cognition_db.records import canonical_json, from_json, sha256_text, to_json

_KIND = "call"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleTotals:
    """What one role cost so far. `seconds` is the sum over requests, also of those that ran side by side."""

    role: str
    count: int
    prompt_tokens: int
    reply_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One answered call; the texts lie in compressed files, each named by the sha256 of the plain text."""

    key: str
    role: str
    hints: dict[str, str]
    finished: bool
    model: str
    prompt_tokens: int
    reply_tokens: int
    seconds: float
    prompt_sha256: str
    reply_sha256: str
    prompt: str = ""  # name and version of the prompt; empty in logs older than prompt versions
    refused: str = ""  # why the server would not answer this request; its reply is empty then


class CallLog:
    """One file of framed lines, one line per answered call, written by one process and readable by any.

    The file is opened for writing (and locked) at the first `record`, so that readers need no lock. A torn last
    line, of a killed writer, is left out: the call is asked again.

    Raises:
        cognition_db.experience.errors.StoreError: the file is damaged before its last line, the disk is full, or
            another process writes it.
    """

    def __init__(self, calls_path: Path, text_path_of: Callable[[str], Path]) -> None:
        self._path = calls_path
        self._text_path_of = text_path_of
        self._guard = threading.Lock()
        self._journal: Journal | None = None
        self._calls = {call.key: call for call in read_calls(calls_path)}

    def find(self, key: str) -> ModelReply | None:
        """The recorded reply to the call named `key`; None where it was not answered or its text is lost.

        Raises:
            ReplyError: the server refused the request.
        """
        call = self.call(key)
        if call is not None and call.refused:
            raise ReplyError(call.refused)
        text = None if call is None else self.text(call.reply_sha256)
        if call is None or text is None:
            return None
        return ModelReply(
            text=text,
            finished=call.finished,
            model=call.model,
            prompt_tokens=call.prompt_tokens,
            reply_tokens=call.reply_tokens,
            seconds=call.seconds,
            prompt_sha256=call.prompt_sha256,
            reply_sha256=call.reply_sha256,
        )

    def call(self, key: str) -> Call | None:
        """The line of the call named `key`; None where it was not answered."""
        with self._guard:
            return self._calls.get(key)

    def text(self, sha256: str) -> str | None:
        """The prompt or reply of that sha256; None where its file is missing or damaged."""
        return read_text(self._text_path_of(sha256), sha256)

    def record(self, request: ModelRequest, reply: ModelReply) -> None:
        """Keep prompt, reply and the line that names both; durable when this returns."""
        self._record(request, reply, refused="")

    def refuse(self, request: ModelRequest, reason: str) -> ReplyError:
        """Keep that the server refused the request, so that it is not asked again; returns what to raise."""
        nothing = ModelReply(
            text="",
            finished=False,
            model="",
            prompt_tokens=0,
            reply_tokens=0,
            seconds=0.0,
            prompt_sha256=sha256_text(prompt_text(request)),
            reply_sha256=sha256_text(""),
        )
        self._record(request, nothing, refused=reason)
        return ReplyError(reason)

    def _record(self, request: ModelRequest, reply: ModelReply, *, refused: str) -> None:
        for sha256, text in ((reply.prompt_sha256, prompt_text(request)), (reply.reply_sha256, reply.text)):
            if self.text(sha256) is None:
                # a time in the header would give equal texts different bytes
                write_atomic(_packed(self._text_path_of(sha256)), gzip.compress(text.encode("utf-8"), mtime=0))
        call = Call(
            key=request.key,
            role=request.role,
            hints=request.hints,
            finished=reply.finished,
            model=reply.model,
            prompt_tokens=reply.prompt_tokens,
            reply_tokens=reply.reply_tokens,
            seconds=round(reply.seconds, 3),
            prompt_sha256=reply.prompt_sha256,
            reply_sha256=reply.reply_sha256,
            prompt=request.prompt,
            refused=refused,
        )
        with self._guard:
            if self._journal is None:
                self._journal = Journal(self._path)
            self._journal.append(_KIND, to_json(call))
            self._calls[call.key] = call

    def calls(self) -> tuple[Call, ...]:
        """All answered calls, in the order of their first answer."""
        with self._guard:
            return tuple(self._calls.values())

    def under(self, key: str) -> tuple[Call, ...]:
        """The answered calls whose keys lie under `key`, as g0001/s003/t0, in the order of their first answer."""
        return tuple(call for call in self.calls() if call.key.startswith(f"{key}/"))

    def totals(self) -> dict[str, RoleTotals]:
        """Calls, tokens and seconds per role."""
        calls = self.calls()
        return {role: _total(role, [c for c in calls if c.role == role]) for role in sorted({c.role for c in calls})}

    def close(self) -> None:
        """Let another process write; a later `record` opens the file again."""
        with self._guard:
            if self._journal is not None:
                self._journal.close()
                self._journal = None


def read_calls(path: Path) -> tuple[Call, ...]:
    """The calls in the file, without a lock; none where there is no file."""
    return tuple(from_json(Call, entry.data) for entry in read(path).entries if entry.kind == _KIND)


def read_text(path: Path, sha256: str) -> str | None:
    """The text kept at `path`, compressed or (by an older version) plain; None where it is missing or damaged."""
    for file, unpack in ((_packed(path), gzip.decompress), (path, bytes)):
        try:
            text = unpack(file.read_bytes()).decode("utf-8")
        except (OSError, EOFError, zlib.error, UnicodeDecodeError):
            continue
        if sha256_text(text) == sha256:
            return text
    return None


def prompt_text(request: ModelRequest) -> str:
    """All of a request that decides its answer, as one JSON text; its sha256 is `prompt_sha256`."""
    asked: dict[str, Any] = {
        "messages": list(request.messages),
        "sampling": to_json(request.sampling),
        "grammar": request.grammar,
        "json_schema": request.json_schema,
    }
    return canonical_json(asked | {"embeds": True} if request.embeds else asked)


def _packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


def _total(role: str, calls: Iterable[Call]) -> RoleTotals:
    listed = list(calls)
    return RoleTotals(
        role=role,
        count=len(listed),
        prompt_tokens=sum(call.prompt_tokens for call in listed),
        reply_tokens=sum(call.reply_tokens for call in listed),
        seconds=sum(call.seconds for call in listed),
    )

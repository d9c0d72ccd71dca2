"""A client that answers from a recording of a real model, the same question always in the same way."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from arch_search.agents.call_log import CallLog, prompt_text
from arch_search.errors import ConfigError, ModelServerError
from arch_search.protocols import ModelReply, ModelRequest
from cognition_db.records import sha256_text


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedReply:
    """One line of a recording. `rung` and `method` are empty for roles that have none."""

    role: str
    reply: str
    rung: str = ""
    method: str = ""
    model: str = "recorded"
    finished: bool = True
    prompt_tokens: int = 0
    reply_tokens: int = 0
    seconds: float = 0.0


class RecordedClient:
    """A ModelClient without a model; its calls go to the call log like those of a server.

    Among the lines of the request's role that have its rung and method, else its rung, else any, the hash of the
    request's key chooses one.

    Raises:
        ConfigError: the recording is missing, empty or not of this form (names the line).
    """

    def __init__(self, recording: Path | str, log: CallLog) -> None:
        self._path = Path(recording).expanduser()
        self._lines = read_recording(self._path)
        self._log = log

    def complete(self, request: ModelRequest) -> ModelReply:
        """The chosen reply; raises ModelServerError where the recording has none of the role."""
        known = self._log.find(request.key)
        if known is not None:
            return known
        fitting = self._fitting(request)
        if not fitting:
            raise ModelServerError(
                f"{request.key}: {self._path.name} has no reply of role {request.role}; record a campaign that asks it"
            )
        chosen = fitting[int.from_bytes(hashlib.sha256(request.key.encode()).digest()[:8], "big") % len(fitting)]
        reply = ModelReply(
            text=chosen.reply,
            finished=chosen.finished,
            model=chosen.model,
            prompt_tokens=chosen.prompt_tokens,
            reply_tokens=chosen.reply_tokens,
            seconds=chosen.seconds,
            prompt_sha256=sha256_text(prompt_text(request)),
            reply_sha256=sha256_text(chosen.reply),
        )
        self._log.record(request, reply)
        return reply

    def _fitting(self, request: ModelRequest) -> list[RecordedReply]:
        of_role = [line for line in self._lines if line.role == request.role]
        of_rung = [line for line in of_role if line.rung == request.hints.get("rung", "")]
        of_method = [line for line in of_rung if line.method == request.hints.get("method", "")]
        return of_method or of_rung or of_role


def read_recording(path: Path) -> tuple[RecordedReply, ...]:
    """All lines of a recording; raises ConfigError, naming the line, for anything else."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"llm.recording={path} cannot be read: {error}") from None
    adapter = TypeAdapter(RecordedReply)
    replies = []
    for number, line in enumerate(lines, start=1):
        try:
            replies.append(adapter.validate_json(line))
        except ValidationError as error:
            raise ConfigError(f"llm.recording={path}, line {number}: {error.errors()[0]['msg']}") from None
    if not replies:
        raise ConfigError(f"llm.recording={path} is empty; make one with agents.recording.record")
    return tuple(replies)

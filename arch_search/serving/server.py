"""The model server: started, found again, probed and stopped. It outlives the driver and is known by its files.

Readiness is a one-token completion: /health answers 200 also while the engine hangs (seen in vLLM's issues).
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from arch_search.config import Llm
from arch_search.errors import ConfigError, ModelServerError
from arch_search.serving.catalogue import find_model
from arch_search.serving.command import serve_command, serve_environment
from arch_search.serving.endpoint import Endpoint, ServerRecord, foreign_endpoint, read_record, write_record
from arch_search.serving.environment import Say, ensure_environment
from arch_search.serving.machine import has_nvidia_gpu, require_memory
from arch_search.serving.process import is_running, start_ticks, stop_session
from arch_search.serving.weights import find_weights, served_name

_POLL_S = 0.25
_PROBE_LIMIT_S = 60.0  # a one-token completion may wait behind running requests on a loaded machine
_GRACE_S = 15.0
_LOCAL = "127.0.0.1"

Pump = Callable[[], None]


def _nothing() -> None:
    """Nobody wants to be called while waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFiles:
    """`endpoint` is the record of the process; whether anybody else reads it is up to its owner."""

    endpoint: Path
    key: Path
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    """A server that was started or found. `record` is None for one that is not ours (llm.kind=endpoint)."""

    endpoint: Endpoint
    record: ServerRecord | None
    files: ServerFiles
    log_offset: int  # where the lines of this start begin in the log
    deadline: float  # time.monotonic() after which it counts as not starting


def start(
    llm: Llm, *, endpoint_file: Path, key_file: Path, log_file: Path, say: Say, pump: Pump = _nothing
) -> Endpoint:
    """A server that answers: the one on record when it passes the probe, else a new one. Blocks until it is ready.

    Raises:
        ModelServerError: see `launch` and `wait_ready`.
    """
    process = launch(llm, endpoint_file=endpoint_file, key_file=key_file, log_file=log_file, say=say)
    return wait_ready(process, llm, say=say, pump=pump)


def launch(
    llm: Llm, *, endpoint_file: Path, key_file: Path, log_file: Path, say: Say, require: Callable[[], None] = _nothing
) -> ServerProcess:
    """Find the server on record or start a new one; returns before it is ready.

    `require` raises where nothing may be started any more; it is asked once the new server is on record, so that
    whoever ends the work from then on finds it there.

    Environment and weights are made first where they are missing. A server on record that is dead or hangs is
    ended by its recorded pid and start time. With llm.kind=endpoint nothing is started.

    Raises:
        ModelServerError: environment, weights, memory or disk do not allow a server.
        ConfigError: llm.kind=endpoint without llm.base_url.
    """
    files = ServerFiles(endpoint=endpoint_file, key=key_file, log=log_file)
    if llm.kind == "endpoint":
        endpoint, deadline = external_endpoint(llm, os.environ), time.monotonic() + _PROBE_LIMIT_S
        return ServerProcess(endpoint=endpoint, record=None, files=files, log_offset=0, deadline=deadline)
    found = _found(llm, files, say)
    if found is not None:
        return found
    python = ensure_environment(llm, say=say)
    weights = find_weights(llm, say=say)
    process = spawn(llm, python=python, weights=weights, files=files, host=_LOCAL, port=_free_port(), require=require)
    say(f"model server started: {process.endpoint.model} at {process.endpoint.base_url}")
    return process


def spawn(
    llm: Llm,
    *,
    python: Path,
    weights: Path,
    files: ServerFiles,
    host: str,
    port: int,
    require: Callable[[], None] = _nothing,
) -> ServerProcess:
    """Start a server at that address, in a session of its own; returns before it is ready. `require`: see `launch`.

    Raises:
        ModelServerError: too little memory.
    """
    on_gpu = has_nvidia_gpu()
    if not on_gpu:
        require_memory(_memory_need_gb(llm, weights), f"serving {llm.model}")
    name, key = served_name(llm.model), secrets.token_urlsafe(24)
    command = serve_command(llm, python=python, weights=weights, name=name, host=host, port=port, on_gpu=on_gpu)
    files.log.parent.mkdir(parents=True, exist_ok=True)
    with files.log.open("ab") as log:
        offset = log.tell()
        process = subprocess.Popen(
            # held back until it is on record: were we killed in between, nobody would ever find and end it
            ["sh", "-c", 'read -r go && exec "$@" </dev/null', "sh", *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            # a folder without packages of ours: vLLM would take our `kernels` for another one
            cwd=python.parent,
            env=serve_environment(llm, weights=weights, key=key, on_gpu=on_gpu),
            start_new_session=True,
        )
    endpoint = Endpoint(base_url=f"http://{host}:{port}/v1", model=name, api_key=key, on_node=host != _LOCAL)
    ticks, here = start_ticks(process.pid) or 0, socket.gethostname()
    record = ServerRecord(endpoint=endpoint, pid=process.pid, start_ticks=ticks, host=here, ready=False)
    _write(record, files)
    assert process.stdin is not None
    with process.stdin as gate:
        try:
            require()
        except BaseException:
            files.endpoint.unlink(missing_ok=True)
            raise
        gate.write(b"go\n")
    deadline = time.monotonic() + llm.start_limit_s
    return ServerProcess(endpoint=endpoint, record=record, files=files, log_offset=offset, deadline=deadline)


def wait_ready(process: ServerProcess, llm: Llm, *, say: Say, pump: Pump = _nothing) -> Endpoint:
    """The endpoint, once a one-token completion came back; `pump` is called about once a second meanwhile.

    Raises:
        ModelServerError: the process ended (with the line of its log that says why) or the time is over; a server
            of ours that does not get ready is ended.
    """
    record, endpoint = process.record, process.endpoint
    began = next_pump = time.monotonic()
    failure = "not asked yet"
    while True:
        if record is not None and not is_running(record.pid, record.start_ticks):
            raise ModelServerError(f"the model server ended while starting: {why_ended(process)}")
        if record is None or is_healthy(endpoint):
            failure = probe_failure(endpoint, _PROBE_LIMIT_S)
            if not failure:
                if record is not None and not record.ready:
                    _write(replace(record, ready=True), process.files)
                say(f"model server ready: {endpoint.model}, waited {time.monotonic() - began:.0f} s")
                return endpoint
        if time.monotonic() >= process.deadline:
            break
        if time.monotonic() >= next_pump:
            pump()
            next_pump = time.monotonic() + 1
        time.sleep(_POLL_S)
    if record is None:
        raise ModelServerError(f"the server at {endpoint.base_url} does not answer: {failure}; check llm.base_url")
    stop_session(record.pid, record.start_ticks, grace_s=_GRACE_S)
    raise ModelServerError(
        f"the model server gave no token within llm.start_limit_s={llm.start_limit_s}: {why_ended(process)}"
    )


def external_endpoint(llm: Llm, environment: Mapping[str, str]) -> Endpoint:
    """The endpoint of llm.kind=endpoint, its key taken from the variable named by llm.api_key_env.

    Raises:
        ConfigError: no base_url.
    """
    if not llm.base_url:
        raise ConfigError("llm.kind=endpoint needs llm.base_url, the address that ends with /v1")
    return foreign_endpoint(llm.base_url, llm.model, llm.api_key_env, environment)


def probe(endpoint: Endpoint, limit_s: float) -> bool:
    """Whether a completion of one token comes back in time with our key."""
    return not probe_failure(endpoint, limit_s)


def probe_failure(endpoint: Endpoint, limit_s: float, *, embeds: bool = False) -> str:
    """Why no completion of one token (with `embeds`: no embedding) came back; empty when one did."""
    asked = {"input": ["Hi"]} if embeds else {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    path, field = ("embeddings", "data") if embeds else ("chat/completions", "choices")
    try:
        question = {"model": endpoint.model, **asked}
        answer = json.loads(_ask(endpoint, f"{endpoint.base_url}/{path}", question, limit_s))
        return "" if answer[field] else f"an answer without {field}"
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    except (ValueError, KeyError, TypeError):
        return "an answer that is not of the OpenAI form"


def is_healthy(endpoint: Endpoint) -> bool:
    """Whether the server's front end is up; says nothing about the engine behind it."""
    try:
        _ask(endpoint, endpoint.base_url.removesuffix("/v1") + "/health", None, 5.0)
    except (OSError, http.client.HTTPException):
        return False
    return True


def stop(endpoint_file: Path) -> None:
    """End the server on record, all its processes; nothing happens where none is on record or it is not ours."""
    record = read_record(endpoint_file)
    if record is not None and record.host == socket.gethostname():
        stop_session(record.pid, record.start_ticks, grace_s=_GRACE_S)
    endpoint_file.unlink(missing_ok=True)


def _found(llm: Llm, files: ServerFiles, say: Say) -> ServerProcess | None:
    """The server on record: ready, or still loading. A dead, hanging or other model's one is ended: None."""
    record = read_record(files.endpoint)
    if record is None or record.host != socket.gethostname():
        return None
    if is_running(record.pid, record.start_ticks) and record.endpoint.model == served_name(llm.model):
        age_s = max(0.0, time.time() - files.endpoint.stat().st_mtime)
        loading = not record.ready and age_s < llm.start_limit_s
        if loading or probe(record.endpoint, _PROBE_LIMIT_S):
            say(f"model server on record (pid {record.pid}) is {'still loading' if loading else 'alive'}: used again")
            deadline = time.monotonic() + llm.start_limit_s - (age_s if loading else 0)
            return ServerProcess(endpoint=record.endpoint, record=record, files=files, log_offset=0, deadline=deadline)
        say(f"model server on record (pid {record.pid}) does not answer: ended")
    stop(files.endpoint)
    return None


def _write(record: ServerRecord, files: ServerFiles) -> None:
    write_record(record, endpoint_file=files.endpoint, key_file=files.key)


def _memory_need_gb(llm: Llm, weights: Path) -> float:
    """GiB of memory: the catalogued figure, else twice the weights and 3 GiB for vLLM's three processes."""
    model = find_model(llm.model)
    if model is not None:
        return model.memory_gb
    return 3 + 2 * sum(path.stat().st_size for path in weights.glob("*.safetensors")) / 2**30


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((_LOCAL, 0))
        port: int = listener.getsockname()[1]
        return port


def _ask(endpoint: Endpoint, url: str, question: dict[str, object] | None, limit_s: float) -> bytes:
    body = None if question is None else json.dumps(question).encode()
    headers = {"Authorization": f"Bearer {endpoint.api_key}", "Content-Type": "application/json"}
    proxies = urllib.request.ProxyHandler({} if endpoint.is_local else None)
    opener = urllib.request.build_opener(proxies)
    with opener.open(urllib.request.Request(url, data=body, headers=headers), timeout=limit_s) as answer:
        content: bytes = answer.read(1_000_000)
        return content


def why_ended(process: ServerProcess) -> str:
    """The line of the server's own log that says most: the last one with an error, else the last one."""
    try:
        with process.files.log.open("rb") as log:
            log.seek(process.log_offset)
            text = log.read().decode("utf-8", errors="replace")
    except OSError as error:
        return f"{process.files.log} cannot be read ({error.strerror})"
    return last_error(text)


def last_error(log: str) -> str:
    """The last line that names an error, without the process and time stamps vLLM puts before it."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line and "See root cause above" not in line]
    line = (errors or lines or ["the log is empty"])[-1]
    return line.rpartition("] ")[2][:300] if "] " in line else line[:300]

"""Starting, finding and ending a server process, with programs in the place of vLLM that fail in known ways."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from arch_search.config import Llm
from arch_search.errors import ConfigError, ModelServerError
from arch_search.serving import server
from arch_search.serving.command import cache_gib, serve_command, serve_environment
from arch_search.serving.endpoint import Endpoint, ServerRecord, read_record, write_record
from arch_search.serving.process import is_running, start_ticks
from arch_search.settings import load_config
from arch_search.stopping import DriverStopped, StopRequest

# answers /health and one-token completions as a server does that is ready
GOOD_SERVER = """
import http.server, os, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.say(b"{}")
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        ok = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        self.say(b'{"choices":[{"index":0}]}' if ok else b'{}')
    def say(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Answer).serve_forever()
"""
FAILS = (
    "import sys; print('(EngineCore pid=7) ERROR 11-20 04:28:06 [core.py:1] ValueError: no such weights'); sys.exit(1)"
)
LOADS_FOR_EVER = "import time; print('loading', flush=True); time.sleep(600)"


def make_llm(folder: Path, program: str, **changes: object) -> Llm:
    """Settings whose environment has `program` for its vllm command and whose weights are a local folder."""
    module = folder / "env" / "lib" / "python3.11" / "site-packages" / "vllm"
    module.mkdir(parents=True, exist_ok=True)
    (module / "__init__.py").touch()
    binaries = folder / "env" / "bin"
    binaries.mkdir(exist_ok=True)
    if not (binaries / "python").exists():
        (binaries / "python").symlink_to(sys.executable)
    # a first line that the kernel can read also where the path of python has a space, as pip writes it
    start = f"#!/bin/sh\n'''exec' \"{sys.executable}\" \"$0\" \"$@\"\n' '''\n"
    (binaries / "vllm").write_text(start + program)
    (binaries / "vllm").chmod(0o755)
    weights = folder / "weights"
    weights.mkdir(exist_ok=True)
    shape = {"num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2, "hidden_size": 1536}
    (weights / "config.json").write_text(json.dumps(shape))
    (weights / "model.safetensors").write_bytes(b"x")
    llm = replace(
        load_config([]).llm, kind="vllm", model="toy", weights=str(weights), api_key_env="KEY",
        env_dir=str(folder / "env"), cache_dir=str(folder / "cache"), context_tokens=4096, parallel_requests=8,
        start_limit_s=20, request_limit_s=5, retries=0,
    )  # fmt: skip
    return replace(llm, **changes)  # type: ignore[arg-type]


def launch(folder: Path, llm: Llm) -> server.ServerProcess:
    return server.launch(
        llm, endpoint_file=folder / "endpoint.json", key_file=folder / "key", log_file=folder / "server.log", say=print
    )


def wait(process: server.ServerProcess, llm: Llm) -> Endpoint:
    return server.wait_ready(process, llm, say=print)


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    server.stop(tmp_path / "endpoint.json")


def test_a_started_server_is_on_record_and_stopped_whole(tmp_path: Path) -> None:
    llm = make_llm(tmp_path, GOOD_SERVER)
    endpoint = wait(launch(tmp_path, llm), llm)
    record = read_record(tmp_path / "endpoint.json")
    assert record is not None
    assert record.endpoint == endpoint
    assert record.ready
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    server.stop(tmp_path / "endpoint.json")
    assert not is_running(record.pid, record.start_ticks)
    assert not (tmp_path / "endpoint.json").exists()


def test_a_live_server_is_used_again_and_one_of_another_model_replaced(tmp_path: Path) -> None:
    llm = make_llm(tmp_path, GOOD_SERVER)
    first = wait(launch(tmp_path, llm), llm)
    assert wait(launch(tmp_path, llm), llm) == first
    other = replace(llm, model="other")
    assert wait(launch(tmp_path, other), other).model == "other"
    assert not server.probe(first, 2)


def test_a_server_that_still_loads_is_waited_for_by_the_next_driver(tmp_path: Path) -> None:
    llm = make_llm(tmp_path, "import time; time.sleep(3)\n" + GOOD_SERVER)
    first = launch(tmp_path, llm)
    second = launch(tmp_path, llm)
    assert first.record is not None
    assert second.record is not None
    assert second.record.pid == first.record.pid
    assert wait(second, llm) == first.endpoint


def test_a_dead_server_on_record_is_replaced(tmp_path: Path) -> None:
    llm = make_llm(tmp_path, GOOD_SERVER)
    process = launch(tmp_path, llm)
    old = wait(process, llm)
    assert process.record is not None
    os.kill(process.record.pid, 9)
    assert wait(launch(tmp_path, llm), llm) != old


def test_nothing_is_started_by_who_is_asked_to_end_meanwhile(tmp_path: Path) -> None:
    """Who ends the work reads the record: it is there before anybody is asked, and nothing runs before the answer."""
    llm = make_llm(tmp_path, "import pathlib, sys; pathlib.Path(sys.argv[0]).with_name('ran').touch()")
    asked: list[ServerRecord | None] = []

    def require() -> None:
        asked.append(read_record(tmp_path / "endpoint.json"))
        raise DriverStopped(StopRequest(reason="test"))

    with pytest.raises(DriverStopped):
        server.launch(
            llm, endpoint_file=tmp_path / "endpoint.json", key_file=tmp_path / "key",
            log_file=tmp_path / "server.log", say=print, require=require,
        )  # fmt: skip
    (record,) = asked
    assert record is not None
    until = time.monotonic() + 10
    while is_running(record.pid, record.start_ticks):
        assert time.monotonic() < until, "the held process did not end"
        time.sleep(0.05)
    assert not (tmp_path / "env" / "bin" / "ran").exists()
    assert read_record(tmp_path / "endpoint.json") is None


def test_a_stranger_that_has_the_recorded_pid_survives(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    ticks = start_ticks(stranger.pid)
    assert ticks is not None
    endpoint = Endpoint(base_url="http://127.0.0.1:9/v1", model="toy", api_key="k")
    record = ServerRecord(
        endpoint=endpoint, pid=stranger.pid, start_ticks=ticks - 5, host=socket.gethostname(), ready=True
    )
    write_record(record, endpoint_file=tmp_path / "endpoint.json", key_file=tmp_path / "key")
    llm = make_llm(tmp_path, GOOD_SERVER)
    wait(launch(tmp_path, llm), llm)
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_server_that_ends_while_starting_is_named_by_its_own_words(tmp_path: Path) -> None:
    llm = make_llm(tmp_path, FAILS)
    with pytest.raises(ModelServerError, match=r"ended while starting: ValueError: no such weights$"):
        wait(launch(tmp_path, llm), llm)


def test_a_server_that_never_gets_ready_is_ended_and_the_waiting_driver_goes_on_working(tmp_path: Path) -> None:
    llm = make_llm(tmp_path, LOADS_FOR_EVER, start_limit_s=2)
    process, pumped = launch(tmp_path, llm), []
    with pytest.raises(ModelServerError, match=r"no token within llm.start_limit_s=2: loading"):
        server.wait_ready(process, llm, say=print, pump=lambda: pumped.append(1))
    assert process.record is not None
    assert not is_running(process.record.pid, process.record.start_ticks)
    assert len(pumped) >= 2


def test_too_little_memory_is_said_before_anything_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "has_nvidia_gpu", lambda: False)
    llm = make_llm(tmp_path, GOOD_SERVER)
    with (tmp_path / "weights" / "model.safetensors").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(ModelServerError, match=r"serving toy needs .* GiB of memory"):
        launch(tmp_path, llm)
    assert not (tmp_path / "endpoint.json").exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"base_url": 1}', '{"key_file": "/nowhere"}'])
def test_a_damaged_record_is_no_record(tmp_path: Path, damage: str) -> None:
    (tmp_path / "endpoint.json").write_text(damage)
    assert read_record(tmp_path / "endpoint.json") is None
    llm = make_llm(tmp_path, GOOD_SERVER)
    assert wait(launch(tmp_path, llm), llm).model == "toy"


@contextmanager
def answering(status: int, body: bytes, delay_s: float = 0) -> Iterator[Endpoint]:
    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if delay_s:
                time.sleep(delay_s)
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    web.daemon_threads = True
    threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield Endpoint(base_url=f"http://127.0.0.1:{web.server_port}/v1", model="m", api_key="k")
    finally:
        web.shutdown()
        web.server_close()


@pytest.mark.parametrize(
    "status, body, said",
    [
        (200, b'{"choices":[{"index":0}]}', ""),
        (200, b'{"choices":[]}', "without choices"),
        (200, b"<html>", "not of the OpenAI form"),
        (200, b"[1]", "not of the OpenAI form"),
        (401, b"{}", "HTTP 401"),
        (500, b"EngineDeadError", "HTTP 500"),
    ],
)
def test_a_probe_says_why_no_token_came(status: int, body: bytes, said: str) -> None:
    with answering(status, body) as endpoint:
        assert said in server.probe_failure(endpoint, 5)
        assert server.probe(endpoint, 5) is (said == "")


def test_a_probe_of_a_silent_or_absent_server_ends_in_time() -> None:
    began = time.monotonic()
    with answering(200, b"{}", delay_s=3) as endpoint:
        assert "timed out" in server.probe_failure(endpoint, 0.5)
    assert "refused" in server.probe_failure(endpoint, 0.5)
    assert time.monotonic() - began < 3


def test_a_foreign_server_is_used_with_the_key_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "secret")
    monkeypatch.setattr(server, "_PROBE_LIMIT_S", 1.0)
    with answering(200, b'{"choices":[{"index":0}]}') as there:
        llm = make_llm(tmp_path, FAILS, kind="endpoint", base_url=there.base_url + "/")
        endpoint = wait(launch(tmp_path, llm), llm)
        assert endpoint == Endpoint(base_url=there.base_url, model="toy", api_key="secret")
        assert not (tmp_path / "endpoint.json").exists()
    with pytest.raises(ModelServerError, match=r"does not answer: .*refused.*check llm\.base_url"):
        wait(launch(tmp_path, llm), llm)
    with pytest.raises(ConfigError, match=r"needs llm.base_url"):
        launch(tmp_path, replace(llm, base_url=None))


def test_the_cache_holds_all_parallel_requests_in_full_length(tmp_path: Path) -> None:
    llm = make_llm(tmp_path, FAILS)
    # 28 layers * 2 heads * 128 wide * keys and values * 2 bytes = 28,672 bytes a token; 8 * 4,096 tokens = 0.875 GiB
    assert cache_gib(llm, tmp_path / "weights") == 1
    assert cache_gib(replace(llm, context_tokens=8192), tmp_path / "weights") == 2


def test_the_command_differs_where_there_is_a_gpu_and_never_holds_the_key(tmp_path: Path) -> None:
    llm, weights = make_llm(tmp_path, FAILS, threads=3), tmp_path / "weights"
    python = tmp_path / "env" / "bin" / "python"
    on_cpu, on_gpu = (
        serve_command(llm, python=python, weights=weights, name="toy", host="127.0.0.1", port=1, on_gpu=gpu)
        for gpu in (False, True)
    )
    assert "--enforce-eager" in on_cpu
    assert "--enforce-eager" not in on_gpu
    variables = serve_environment(llm, weights=weights, key="secret", on_gpu=False)
    assert variables["VLLM_API_KEY"] == "secret"
    assert variables["OMP_NUM_THREADS"] == "3"
    assert "secret" not in " ".join(on_cpu)
    assert "VLLM_CPU_KVCACHE_SPACE" not in serve_environment(llm, weights=weights, key="secret", on_gpu=True)

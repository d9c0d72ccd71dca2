"""The real server: vLLM with SmolLM2-135M-Instruct, started, asked, killed, started again, stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from arch_search.agents.call_log import CallLog
from arch_search.agents.client import OnDown, OneServer, OpenAiClient
from arch_search.agents.replies import ask_for_json, schema_of
from arch_search.config import Llm, Sampling
from arch_search.errors import ModelServerError, ReplyError
from arch_search.protocols import ModelRequest
from arch_search.serving import server
from arch_search.serving.endpoint import Endpoint, read_record
from arch_search.serving.machine import cpu_support, has_nvidia_gpu
from arch_search.settings import load_config

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(not (cpu_support().ok or has_nvidia_gpu()), reason=cpu_support().reason),
]
ROOT = Path(__file__).parents[2]


@dataclass
class Running:
    """A server and the files it is known by; `endpoint` changes when a test starts it again."""

    llm: Llm
    folder: Path
    endpoint: Endpoint

    def start(self, **changes: object) -> Endpoint:
        llm = replace(self.llm, **changes)  # type: ignore[arg-type]
        return server.start(
            llm, endpoint_file=self.folder / "endpoint.json", key_file=self.folder / "key",
            log_file=self.folder / "server.log", say=print,
        )  # fmt: skip

    def client(self, folder: Path, on_down: OnDown | None = None) -> OpenAiClient:
        log = CallLog(folder / "calls.jsonl", lambda sha256: folder / "texts" / sha256)
        return OpenAiClient(OneServer(self.endpoint, on_down), llm=self.llm, log=log)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    llm = replace(
        load_config([]).llm, kind="vllm", model="smollm2-135m-instruct", env_dir=str(ROOT / ".venv-llm"),
        cache_dir=str(ROOT / ".cache"), context_tokens=1024, parallel_requests=4, start_limit_s=300,
        request_limit_s=60, retries=2,
    )  # fmt: skip
    one = Running(llm, tmp_path_factory.mktemp("server"), Endpoint(base_url="", model="", api_key=""))
    one.endpoint = one.start()
    yield one
    server.stop(one.folder / "endpoint.json")


def request(key: str, text: str = "Write a word.", *, max_tokens: int = 24) -> ModelRequest:
    return ModelRequest(
        key=key,
        role="researcher",
        messages=({"role": "user", "content": text},),
        sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=max_tokens),
    )


def pid_of(running: Running) -> int:
    record = read_record(running.folder / "endpoint.json")
    assert record is not None
    return record.pid


def session_members(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_the_key_lies_in_a_file_of_the_owner_and_in_no_command_line(running: Running) -> None:
    key_file = running.folder / "key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    key = key_file.read_text()
    assert len(key) >= 32
    assert key not in (running.folder / "endpoint.json").read_text()
    assert key not in Path(f"/proc/{pid_of(running)}/cmdline").read_text()
    assert key not in repr(running.endpoint)


def test_a_wrong_key_is_refused_without_a_second_attempt(running: Running, tmp_path: Path) -> None:
    stranger = replace(running.endpoint, api_key="wrong")
    assert not server.probe(stranger, 30)
    assert "401" in server.probe_failure(stranger, 30)
    log = CallLog(tmp_path / "calls.jsonl", lambda sha256: tmp_path / sha256)
    with pytest.raises(ModelServerError, match="HTTP 401"):
        OpenAiClient(OneServer(stranger), llm=running.llm, log=log).complete(request("k"))


def test_a_second_start_uses_the_running_server(running: Running) -> None:
    before = pid_of(running)
    assert running.start() == running.endpoint
    assert pid_of(running) == before


def test_a_grammar_is_obeyed(running: Running, tmp_path: Path) -> None:
    client = running.client(tmp_path)
    asked = replace(request("g"), grammar='root ::= "return " ("q" | "k") " * 2\\n"')
    replies = {client.complete(replace(asked, key=f"g{number}")).text for number in range(3)}
    assert replies <= {"return q * 2\n", "return k * 2\n"}


def test_a_schema_is_obeyed_and_validated_again(running: Running, tmp_path: Path) -> None:
    class Marks(BaseModel):
        novelty: int
        reason: str

    marks, reply = ask_for_json(running.client(tmp_path), request("s", max_tokens=200), Marks)
    assert set(json.loads(reply.text)) == set(schema_of(Marks)["properties"])  # type: ignore[call-overload]
    assert isinstance(marks.novelty, int)


def test_a_bad_grammar_and_a_too_long_prompt_belong_to_the_request(running: Running, tmp_path: Path) -> None:
    client = running.client(tmp_path)
    with pytest.raises(ReplyError, match="HTTP 400"):
        client.complete(replace(request("bad"), grammar="root ::= undefined_rule"))
    with pytest.raises(ReplyError, match="HTTP 400"):
        client.complete(request("long", "word " * 3000))
    assert client.complete(request("good")).text


def test_a_cut_reply_is_not_finished_and_its_tokens_are_counted(running: Running, tmp_path: Path) -> None:
    reply = running.client(tmp_path).complete(request("cut", "Tell a very long story.", max_tokens=5))
    assert not reply.finished
    assert reply.reply_tokens == 5
    assert reply.prompt_tokens > 5


def test_a_server_killed_with_signal_9_is_started_again_through_the_hook(running: Running, tmp_path: Path) -> None:
    old = pid_of(running)

    def on_down() -> Endpoint:
        running.endpoint = running.start()
        return running.endpoint

    client = running.client(tmp_path, on_down=on_down)
    os.kill(old, signal.SIGKILL)
    assert client.complete(request("after the kill")).text
    assert pid_of(running) != old
    assert session_members(old) == []


def test_a_server_that_cannot_start_is_named_by_the_line_of_its_log(running: Running, tmp_path: Path) -> None:
    other = Running(running.llm, tmp_path, running.endpoint)
    broken = tmp_path / "weights"
    broken.mkdir()
    (broken / "config.json").write_text((_weights(running) / "config.json").read_text())
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelServerError, match=r"ended while starting: .*Error") as caught:
        other.start(weights=str(broken))
    assert "\n" not in str(caught.value)


def test_a_hanging_server_is_ended_by_its_record_and_a_new_one_started(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_PROBE_LIMIT_S", 5.0)
    old = pid_of(running)
    for member in session_members(old):
        os.kill(member, signal.SIGSTOP)
    running.endpoint = running.start()
    assert pid_of(running) != old
    assert session_members(old) == []
    assert server.probe(running.endpoint, 60)


def test_stop_leaves_no_process_and_no_open_port(running: Running) -> None:
    leader = pid_of(running)
    assert len(session_members(leader)) >= 2
    server.stop(running.folder / "endpoint.json")
    assert session_members(leader) == []
    port = int(running.endpoint.base_url.rpartition(":")[2].removesuffix("/v1"))
    with socket.socket() as caller:
        assert caller.connect_ex(("127.0.0.1", port)) != 0
    server.stop(running.folder / "endpoint.json")


def _weights(running: Running) -> Path:
    return Path(running.llm.cache_dir) / "weights" / running.llm.model

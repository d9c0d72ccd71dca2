"""The client against a real HTTP server that misbehaves: dead, slow, dripping, garbage, half JSON, 500, 401."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from arch_search.agents.call_log import CallLog
from arch_search.agents.client import OnDown, OneServer, OpenAiClient
from arch_search.config import Sampling
from arch_search.errors import ModelServerError, ReplyError
from arch_search.protocols import ModelRequest
from arch_search.serving.endpoint import Endpoint
from arch_search.settings import load_config

Handler = BaseHTTPRequestHandler
Behaviour = Callable[[Handler], None]

REQUEST = ModelRequest(
    key="g0001/s000/t0/researcher",
    role="researcher",
    messages=({"role": "user", "content": "?"},),
    sampling=Sampling(temperature=0.5, top_p=0.9, max_tokens=16),
)


class Peer:
    """A server that behaves by the given list, one entry per request; the last entry stays."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours = list(behaviours)
        self.asked: list[dict[str, Any]] = []
        peer = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                peer.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                act = peer.behaviours.pop(0) if len(peer.behaviours) > 1 else peer.behaviours[0]
                act(self)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(base_url=f"http://127.0.0.1:{self.server.server_port}/v1", model="m", api_key="k")


@contextmanager
def peer(*behaviours: Behaviour) -> Iterator[Peer]:
    one = Peer(*behaviours)
    try:
        yield one
    finally:
        one.server.shutdown()
        one.server.server_close()


def sends(body: bytes, status: int = 200) -> Behaviour:
    def act(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return act


def completion(text: str | None, finish: str = "stop") -> bytes:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(answer).encode()


def silent(handler: Handler) -> None:
    time.sleep(3)


def hangs_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def hangs_up_in_the_middle(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(completion("x")[:50])
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def drips(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(100):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)
    except OSError:
        pass


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * 65536)
    except OSError:
        pass


GOOD = sends(completion("def mix"))


def make_client(folder: Path, endpoint: Endpoint, *, retries: int = 1, on_down: OnDown | None = None) -> OpenAiClient:
    llm = replace(
        load_config([]).llm, kind="endpoint", model="m", base_url=endpoint.base_url, request_limit_s=1, retries=retries
    )
    log = CallLog(folder / "calls.jsonl", lambda sha256: folder / "texts" / sha256)
    return OpenAiClient(OneServer(endpoint, on_down), llm=llm, log=log, sleep=lambda seconds: None)


def test_a_good_answer_carries_text_tokens_and_hashes(tmp_path: Path) -> None:
    with peer(GOOD) as server:
        reply = make_client(tmp_path, server.endpoint).complete(REQUEST)
    assert (reply.text, reply.finished, reply.prompt_tokens, reply.reply_tokens) == ("def mix", True, 7, 3)
    assert len(reply.prompt_sha256) == len(reply.reply_sha256) == 64


def test_an_answered_key_is_not_asked_again_also_by_a_new_client(tmp_path: Path) -> None:
    with peer(GOOD) as server:
        first = make_client(tmp_path, server.endpoint).complete(REQUEST)
        again = make_client(tmp_path, server.endpoint).complete(REQUEST)
        assert len(server.asked) == 1
    assert again.text == first.text


def test_an_answer_cut_by_max_tokens_is_not_finished(tmp_path: Path) -> None:
    with peer(sends(completion("def", finish="length"))) as server:
        assert not make_client(tmp_path, server.endpoint).complete(REQUEST).finished


def test_an_answer_without_text_is_an_empty_reply(tmp_path: Path) -> None:
    with peer(sends(completion(None))) as server:
        assert make_client(tmp_path, server.endpoint).complete(REQUEST).text == ""


def test_a_grammar_and_a_schema_travel_in_their_fields_and_no_seed_is_sent(tmp_path: Path) -> None:
    with peer(GOOD) as server:
        client = make_client(tmp_path, server.endpoint)
        client.complete(replace(REQUEST, key="a", grammar='root ::= "x"'))
        client.complete(replace(REQUEST, key="b", json_schema={"type": "object"}))
        grammar, schema = server.asked
    assert grammar["structured_outputs"] == {"grammar": 'root ::= "x"'}
    assert schema["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert "seed" not in grammar
    assert "seed" not in schema


@pytest.mark.parametrize(
    "fault, said",
    [
        (hangs_up, "no connection"),
        (hangs_up_in_the_middle, "the connection broke"),
        (silent, "request_limit_s=1"),
        (drips, "request_limit_s=1"),
        (endless, "more than 8000000 bytes|request_limit_s=1"),
        (sends(b"<html>proxy</html>"), "no chat completion: '<html>"),
        (sends(completion("x")[:-30]), "no chat completion"),
        (sends(b""), "no chat completion"),
        (sends(b'{"choices":[]}'), "no chat completion"),
        (sends(b'{"choices":[{"message":{"content":{"a":1}}}]}'), "no chat completion"),
        (sends(b"null"), "no chat completion"),
        (sends(b'{"error":{"message":"EngineDeadError"}}', 500), "HTTP 500: .*EngineDeadError"),
        (sends(b"busy", 429), "HTTP 429"),
    ],
)
def test_a_fault_is_tried_again_and_named_when_it_stays(tmp_path: Path, fault: Behaviour, said: str) -> None:
    with peer(fault, GOOD) as server:
        assert make_client(tmp_path / "heals", server.endpoint).complete(REQUEST).text == "def mix"
    with peer(fault) as server:
        with pytest.raises(ModelServerError, match=said) as caught:
            make_client(tmp_path / "stays", server.endpoint).complete(REQUEST)
        assert len(server.asked) == 2
    assert "\n" not in str(caught.value)
    assert "in 2 attempts" in str(caught.value)


@pytest.mark.parametrize("status, error", [(400, ReplyError), (401, ModelServerError), (404, ModelServerError)])
def test_a_refused_request_is_not_tried_again(tmp_path: Path, status: int, error: type[Exception]) -> None:
    with peer(sends(b'{"error":{"message":"Grammar error"}}', status), GOOD) as server:
        with pytest.raises(error, match=f"HTTP {status}"):
            make_client(tmp_path, server.endpoint).complete(REQUEST)
        assert len(server.asked) == 1


def test_a_dead_server_is_started_again_through_the_hook(tmp_path: Path) -> None:
    with peer(GOOD) as dead:
        gone = dead.endpoint
    with peer(GOOD) as fresh:
        calls: list[str] = []

        def on_down() -> Endpoint:
            calls.append("down")
            return fresh.endpoint

        assert make_client(tmp_path, gone, on_down=on_down).complete(REQUEST).text == "def mix"
        assert calls == ["down"]


def test_threads_that_fail_together_start_one_server(tmp_path: Path) -> None:
    with peer(GOOD) as dead:
        gone = dead.endpoint
    with peer(GOOD) as fresh:
        calls: list[str] = []

        def on_down() -> Endpoint:
            calls.append("down")
            time.sleep(0.3)
            return fresh.endpoint

        client = make_client(tmp_path, gone, on_down=on_down, retries=2)
        threads = [
            threading.Thread(target=client.complete, args=(replace(REQUEST, key=f"k{number}"),)) for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert calls == ["down"]
        assert len(fresh.asked) == 4


def test_without_a_server_the_asking_ends_after_the_bounded_retries(tmp_path: Path) -> None:
    with peer(GOOD) as dead:
        gone = dead.endpoint
    with pytest.raises(ModelServerError, match=r"no answer .* in 4 attempts; the last one: no connection"):
        make_client(tmp_path, gone, retries=3, on_down=lambda: None).complete(REQUEST)


def test_a_proxy_of_the_environment_does_not_stand_before_a_local_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with peer(GOOD) as server:
        assert make_client(tmp_path, server.endpoint, retries=0).complete(REQUEST).text == "def mix"

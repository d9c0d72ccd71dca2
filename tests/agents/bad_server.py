"""A server of the OpenAI chat completions form that misbehaves, in one named way after the other.

`ALL` names each way and how a call to it must end: `refused` (a reason on the try or the lesson), `no answer` (the
error of the model server, after bounded retries), `taken` (oddly wrapped, but a reply).
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.serving.endpoint import Endpoint

Handler = BaseHTTPRequestHandler
End = Literal["refused", "no answer", "taken"]

HOOK = "def output_gate(self, o, x):\n    return o * torch.sigmoid(o)\n"
MODULE = """import torch
from torch import nn


class DeltaNet(nn.Module):
    def __init__(self, hidden_size=64, **kwargs):
        super().__init__()
        self.values = nn.Linear(hidden_size, hidden_size)
        self.gate = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, **kwargs):
        count = torch.arange(1, hidden_states.shape[1] + 1, device=hidden_states.device)
        mean = torch.cumsum(self.values(hidden_states), dim=1) / count[:, None]
        return mean * torch.sigmoid(self.gate(hidden_states))
"""
OTHERS = "class GatedNet:\n    pass\n\n\nclass DeltaNett:\n    pass\n"
MARKS = {"effectiveness": 4, "novelty": 6, "complexity": 8}
WORDS = {
    "component": "output gate", "confidence": 0.5, "lesson": "Nothing can be said about the gate yet.",
    "trigger": "the gate stays open",
}  # fmt: skip
PLAN = {
    "idea": "gate the output with the input", "mechanism": "each token decides", "expected_effect": "less noise",
    "origin": "original", "sources": [],
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """One request: the connection, what came, and what a well-behaved model would have said to it."""

    handler: Handler
    body: dict[str, Any]

    @property
    def wants_object(self) -> bool:
        return "response_format" in self.body

    @property
    def prompt(self) -> str:
        return "\n".join(turn["content"] for turn in self.body["messages"])

    @property
    def good(self) -> str:
        if self.wants_object:
            names = self.body["response_format"]["json_schema"]["schema"]["required"]
            return json.dumps({name: {**MARKS, **WORDS, **PLAN}.get(name, "as before") for name in names})
        if self.body["max_tokens"] > 2_000:
            return f"```python\n{MODULE}```"
        return self.hook

    @property
    def hook(self) -> str:
        """A function of the name that is asked for, as an edit."""
        names = re.findall(r"def (\w+)\(self[^)]*\)", self.body["messages"][-1]["content"])
        return HOOK.replace("output_gate", names[-1] if names else "forward")


Act = Callable[[Asked], None]


@dataclass(frozen=True)
class Misbehaviour:
    name: str
    act: Act
    end: End


def answer(text: Any, *, finish: str = "stop", **changes: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **changes}
    choice = {"index": 0, "finish_reason": finish, "message": message}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def send(asked: Asked, body: bytes, *, status: int = 200, kind: str = "application/json", **headers: str) -> None:
    fields = {"Content-Type": kind, "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    asked.handler.send_response(status)
    for name, value in fields.items():
        asked.handler.send_header(name, value)
    asked.handler.end_headers()
    asked.handler.wfile.write(body)


def sends(data: dict[str, Any]) -> Act:
    return lambda asked: send(asked, json.dumps(data).encode())


def says(text: str | Callable[[Asked], str], **how: Any) -> Act:
    """A well-formed completion with that text."""
    return lambda asked: send(asked, json.dumps(answer(text(asked) if callable(text) else text, **how)).encode())


def wraps(change: Callable[[dict[str, Any]], object]) -> Act:
    """A good text in a completion that `change` spoils."""

    def act(asked: Asked) -> None:
        data = answer(asked.good)
        change(data)
        send(asked, json.dumps(data).encode())

    return act


def fails(status: int, body: bytes = b'{"error":{"message":"no"}}', **headers: str) -> Act:
    return lambda asked: send(asked, body, status=status, **headers)


def raw(*parts: bytes, pause_s: float = 0.0) -> Act:
    """Bytes as they are, then the end of the connection."""

    def act(asked: Asked) -> None:
        for part in parts:
            asked.handler.wfile.write(part)
            asked.handler.wfile.flush()
            time.sleep(pause_s)

    return act


def resets(asked: Asked) -> None:
    """The connection ends at once with a reset."""
    asked.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    asked.handler.connection.close()


def endless(status: int) -> Act:
    def act(asked: Asked) -> None:
        asked.handler.send_response(status)
        asked.handler.end_headers()
        while True:
            asked.handler.wfile.write(b" " * 65_536)

    return act


def invalid_utf8(asked: Asked) -> None:
    send(asked, json.dumps(answer("@ prose @")).encode().replace(b"@", b"\xff\xfe\xc3"))


def changed(**values: Any) -> Callable[[Asked], str]:
    """The good object with other values; prose where code is asked for."""
    return lambda asked: json.dumps({**json.loads(asked.good), **values}) if asked.wants_object else "see below"


def instead(code: str, data: str) -> Callable[[Asked], str]:
    return lambda asked: data if asked.wants_object else code


def every_value(value: Any) -> Callable[[Asked], str]:
    def text(asked: Asked) -> str:
        return json.dumps(dict.fromkeys(json.loads(asked.good), value)) if asked.wants_object else str(value)

    return text


def twice(asked: Asked) -> str:
    """Two programs, or two objects."""
    return f"{asked.good}\n{asked.good}" if asked.wants_object else f"{asked.hook}\n{asked.hook}"


def named_twice(asked: Asked) -> str:
    name = next(iter(json.loads(asked.good))) if asked.wants_object else "motivation"
    return f'{{"{name}": 1, "{name}": 2}}'


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ONE_S = 1.0
FENCE = "```"
REFUSED: dict[str, Act] = {
    "refusal": says("I'm sorry, but I can't help with that request."),
    "prose": says("You could gate the output with the input, which lets every token decide how much it reads."),
    "half_json": says('{"effectiveness": 4, "nov', finish="stop"),
    "wrong_schema": says('{"score": 9, "comment": "great"}'),
    "extra_keys": says(changed(bonus=1)),
    "wrong_types": says(every_value("nine")),
    "a_list_of_objects": says("[{}, {}]"),
    "schema_valid_nonsense": says(instead("def f(self):\n    return 42\n", '{"effectiveness": 0}')),
    "empty_content": says(""),
    "null_content": sends(answer(None)),
    "whitespace_only": says(" \n\t\r\n\u00a0 "),
    "hundred_thousand_tokens": says("token " * 100_000),
    "a_hundred_thousand_lines": says(f"{FENCE}python\n" + "x = 1\n" * 100_000 + FENCE),
    "nul_bytes": says("def\0 output_gate\0(self, o, x):\0\n    return o\0"),
    "bidi_overrides": says("\u202edef output_gate(self, o, x):\u2066\n    return o\u202c"),
    "terminal_commands": says("\x1b[2J\x1b]0;owned\x07\x9b31m done \x08\x08\r all good"),
    "lone_surrogates": says("prose with half a character: \ud800 \udfff"),
    "escaped_control_characters": says(changed(**{"\u0000\u001b[2J": "\ud800"})),
    "other_class_name": says(instead(f"{FENCE}python\n{OTHERS}{FENCE}", '{"class": "GatedNet"}')),
    "two_programs": says(twice),
    "the_prompt_again": says(lambda asked: asked.prompt),
    "the_parent_again": says(f"{FENCE}python\n{SEED_PROGRAM}{FENCE}"),
    "unclosed_fence": says(f"Here it is:\n{FENCE}python\n", finish="length"),
    "nested_fences": says(f"{FENCE}markdown\n{FENCE}python\nx = 1\n{FENCE}\n{FENCE}"),
    "json_with_nan": says(every_value(float("nan"))),
    "json_with_infinity": says(every_value(float("inf"))),
    "deep_json": says('{"a":' * 50_000),
    "deep_code": says("def output_gate(self, o, x):\n    return " + "(" * 50_000),
    "an_integer_without_end": says(every_value(10**4_299)),
    "duplicate_keys": says(named_twice),
    "cut_by_max_tokens": says('{"effectiveness": 1', finish="length"),
    "a_tool_call_instead": sends(answer(None, finish="tool_calls", tool_calls=[{"id": "1", "type": "function"}])),
    "a_refusal_field": sends(answer(None, refusal="I can't help with that.")),
    "invalid_utf8": invalid_utf8,
    "http_400": fails(400),
    "http_400_with_a_page": fails(400, b"<html>\x1b[31m" + b"bad " * 50_000 + b"</html>"),
    "http_413": fails(413),
    "http_422": fails(422),
}
NO_ANSWER: dict[str, Act] = {
    "no_choices": sends({**answer(""), "choices": []}),
    "null_choices": sends({**answer(""), "choices": None}),
    "a_choice_without_message": sends({**answer(""), "choices": [{}]}),
    "content_in_parts": sends(answer([{"type": "text", "text": "x"}])),
    "content_is_a_number": sends(answer(7)),
    "no_object": lambda asked: send(asked, b"null"),
    "deep_answer": lambda asked: send(asked, b"[" * 100_000),
    "a_stream_of_events": lambda asked: send(asked, b'data: {"choices":[]}\n\n', kind="text/event-stream"),
    "an_html_page": lambda asked: send(asked, b"<html>Welcome</html>", kind="text/html"),
    "no_body": lambda asked: send(asked, b""),
    "half_an_answer": lambda asked: send(asked, json.dumps(answer("x")).encode()[:-30]),
    "not_the_encoding_it_says": lambda asked: send(asked, json.dumps(answer("x")).encode(), Content_Encoding="gzip"),
    "silence": lambda asked: time.sleep(2 * ONE_S),
    "slow_drip_of_the_body": raw(HEAD + b"\r\n", *[b" "] * 60, pause_s=0.1),
    "slow_drip_of_the_head": raw(*[bytes([byte]) for byte in HEAD[:60]], pause_s=0.1),
    "endless_body": endless(200),
    "endless_error": endless(500),
    "disconnect_before_the_answer": resets,
    "disconnect_in_the_head": raw(HEAD[:20]),
    "disconnect_in_the_body": raw(HEAD + b"Content-Length: 1000\r\n\r\n{"),
    "content_length_too_long": raw(HEAD + b"Content-Length: 9000\r\n\r\n" + json.dumps(answer("x")).encode()),
    "content_length_too_short": raw(HEAD + b"Content-Length: 20\r\n\r\n" + json.dumps(answer("x")).encode()),
    "content_length_no_number": raw(HEAD + b"Content-Length: ten\r\n\r\n{}"),
    "a_huge_header": raw(HEAD + b"X-Padding: " + b"x" * 1_000_000 + b"\r\n\r\n{}"),
    "no_http": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "http_401": fails(401),
    "http_403": fails(403),
    "http_404": fails(404),
    "http_429": fails(429, Retry_After="3600"),
    "http_500": fails(500),
    "http_502_with_a_page": fails(502, b"<html>\x1b[31mBad Gateway</html>", kind="text/html"),
    "http_503": fails(503),
    "http_500_with_deep_json": fails(500, b"[" * 100_000),
    "a_redirection": fails(307, Location="http://127.0.0.1:9/v1/chat/completions"),
    "a_redirection_to_itself": fails(308, Location="/v1/chat/completions"),
}
TAKEN: dict[str, Act] = {
    "wrong_role": wraps(lambda data: data["choices"][0]["message"].update(role="system")),
    "several_choices": wraps(lambda data: data["choices"].append(data["choices"][0])),
    "impossible_usage": wraps(lambda data: data.update(usage={"prompt_tokens": -7, "completion_tokens": 10**400})),
    "usage_of_other_types": wraps(lambda data: data.update(usage=[None])),
    "a_model_name_with_commands": wraps(lambda data: data.update(model="\x1b[2J\ud800" + "m" * 10_000)),
}
ALL = [
    *(Misbehaviour(name, act, "refused") for name, act in REFUSED.items()),
    *(Misbehaviour(name, act, "no answer") for name, act in NO_ANSWER.items()),
    *(Misbehaviour(name, act, "taken") for name, act in TAKEN.items()),
]


# the question whether a server is there, which is asked before any other
PRESENT = Misbehaviour("present", says("x"), "taken")


class BadServer:
    """Answers each request by the next of the given ways, round and round; a request for one token it answers well."""

    def __init__(self, ways: Sequence[Misbehaviour]) -> None:
        self.asked = 0
        guard, server = threading.Lock(), self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = Asked(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                way = PRESENT
                if asked.body.get("max_tokens", 2) > 1:
                    with guard:
                        way = ways[server.asked % len(ways)]
                        server.asked += 1
                # a client that has had enough closes the connection
                with suppress(OSError):
                    way.act(asked)
                self.close_connection = True

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(base_url=f"http://127.0.0.1:{self.http.server_port}/v1", model="m", api_key="k")


@contextmanager
def bad_server(*ways: Misbehaviour) -> Iterator[BadServer]:
    server = BadServer(ways)
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()

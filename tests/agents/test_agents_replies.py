"""Replies of a model: stripped, parsed and validated again; what cannot be used becomes one line."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, Field

from arch_search.agents.replies import ask_for_json, ask_for_text, parse_json, schema_of, strip_fence
from arch_search.config import Sampling
from arch_search.errors import ReplyError
from arch_search.protocols import ModelReply, ModelRequest


class Marks(BaseModel):
    mark: int = Field(ge=1, le=10)


class Scripted:
    """A client that sends the given texts one after the other and keeps what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.asked: list[ModelRequest] = []

    def complete(self, request: ModelRequest) -> ModelReply:
        self.asked.append(request)
        return reply(self.texts.pop(0))


def reply(text: str, *, finished: bool = True) -> ModelReply:
    return ModelReply(
        text=text, finished=finished, model="m", prompt_tokens=1, reply_tokens=1, seconds=0.1,
        prompt_sha256="0" * 64, reply_sha256="0" * 64,
    )  # fmt: skip


def request(key: str = "k") -> ModelRequest:
    return ModelRequest(
        key=key,
        role="judge",
        messages=({"role": "user", "content": "?"},),
        sampling=Sampling(temperature=0, top_p=1, max_tokens=8),
    )


@pytest.mark.parametrize("text", ['{"mark":7}', ' \n{"mark": 7}\n', '```json\n{"mark":7}\n```', '```\n{"mark":7}```'])
def test_a_json_object_is_found_with_and_without_a_fence(text: str) -> None:
    assert parse_json(reply(text), Marks).mark == 7


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "is empty"),
        ("  \n ", "is empty"),
        ("Sure! I would give it a seven.", "is not JSON"),
        ('{"mark":', "is not JSON"),
        ('{"mark":11}', "mark: Input should be less than or equal to 10"),
        ('{"note":"good"}', "mark: Field required"),
        ("[7]", "does not fit the schema"),
        ("null", "does not fit the schema"),
        ("[" * 100_000, "JSON"),
        ('{"mark":7,"mark":8}', "names a key twice: mark, mark"),
        ('{"mark":NaN}', "holds NaN"),
        ('{"mark":-Infinity}', "holds -Infinity"),
        (f'{{"mark":1{"0" * 5000}}}', "a value that is not read"),
    ],
)
def test_a_reply_of_another_form_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ReplyError, match=said) as caught:
        parse_json(reply(text), Marks)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_texts_of_an_object_hold_nothing_that_steers_a_terminal_or_that_no_file_takes() -> None:
    class Notes(BaseModel):
        notes: list[str]
        note: str

    text = r'{"notes":["a\u0000b"],"note":"\u001b[2J\ud800\u202e\n"}'
    assert parse_json(reply(text), Notes) == Notes(notes=["a\ufffdb"], note="\ufffd[2J\ufffd\ufffd\n")


def test_a_reply_cut_by_max_tokens_is_named_as_such() -> None:
    with pytest.raises(ReplyError, match="cut by max_tokens"):
        parse_json(reply('{"mark": 1' + "0" * 400, finished=False), Marks)


def test_a_bad_reply_is_asked_for_once_more_under_its_own_key() -> None:
    client = Scripted("prose", '{"mark":3}')
    marks, _ = ask_for_json(client, request(), Marks)
    assert marks.mark == 3
    assert [one.key for one in client.asked] == ["k", "k/again-1"]
    assert client.asked[0].json_schema == schema_of(Marks)


def test_two_bad_replies_end_the_asking() -> None:
    with pytest.raises(ReplyError, match=r"^k: the reply is not JSON"):
        ask_for_json(Scripted("prose", "more prose", '{"mark":3}'), request(), Marks)


def test_an_empty_text_is_asked_for_once_more_and_then_refused() -> None:
    assert ask_for_text(Scripted(" \n", "code"), request()).text == "code"
    with pytest.raises(ReplyError, match="k: the model sent an empty reply, 2 times"):
        ask_for_text(Scripted("", " "), request())


def test_only_a_fence_around_everything_is_stripped() -> None:
    assert strip_fence("```python\nx = 1\n```\n") == "x = 1"
    assert strip_fence("before\n```\nx\n```") == "before\n```\nx\n```"


def test_the_schema_asks_for_every_field_and_no_other() -> None:
    assert schema_of(Marks) == {
        "type": "object",
        "properties": {"mark": {"type": "integer", "minimum": 1, "maximum": 10}},
        "required": ["mark"],
        "additionalProperties": False,
    }

"""The call log and the recording made from it: nothing answered is asked again, a torn tail costs one call."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from arch_search.agents.call_log import Call, CallLog, prompt_text, read_calls
from arch_search.agents.recorded import RecordedClient, read_recording
from arch_search.agents.recording import record
from arch_search.config import Sampling
from arch_search.errors import ConfigError, ModelServerError
from arch_search.protocols import ModelReply, ModelRequest
from cognition_db.experience.errors import StoreError
from cognition_db.records import from_json, sha256_text, to_json


def request(key: str, *, role: str = "researcher", **hints: str) -> ModelRequest:
    return ModelRequest(
        key=key,
        role=role,
        messages=({"role": "user", "content": f"question of {key}"},),
        sampling=Sampling(temperature=0.5, top_p=1, max_tokens=8),
        hints=hints,
    )


def reply(asked: ModelRequest, text: str) -> ModelReply:
    return ModelReply(
        text=text, finished=True, model="m", prompt_tokens=10, reply_tokens=3, seconds=1.5,
        prompt_sha256=sha256_text(prompt_text(asked)), reply_sha256=sha256_text(text),
    )  # fmt: skip


def open_log(folder: Path) -> CallLog:
    return CallLog(folder / "calls.jsonl", lambda sha256: folder / "texts" / sha256[:2] / f"{sha256}.txt")


def add(log: CallLog, key: str, text: str, *, role: str = "researcher", **hints: str) -> None:
    asked = request(key, role=role, **hints)
    log.record(asked, reply(asked, text))


def test_an_answered_call_is_found_after_a_restart(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    add(log, "a", "réponse\r\nligne deux\n")
    log.close()
    found = open_log(tmp_path).find("a")
    assert found is not None
    assert found.text == "réponse\r\nligne deux\n"
    assert (found.prompt_tokens, found.reply_tokens, found.seconds) == (10, 3, 1.5)
    assert open_log(tmp_path).find("b") is None


def test_a_reader_needs_no_lock_while_a_writer_has_the_file(tmp_path: Path) -> None:
    writer = open_log(tmp_path)
    add(writer, "a", "x")
    assert open_log(tmp_path).totals()["researcher"].count == 1


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    first, second = open_log(tmp_path), open_log(tmp_path)
    add(first, "a", "x")
    with pytest.raises(StoreError, match="another process writes"):
        add(second, "b", "y")


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_costs_that_call_only(tmp_path: Path, cut: int) -> None:
    log = open_log(tmp_path)
    add(log, "a", "first")
    add(log, "b", "second")
    log.close()
    calls = tmp_path / "calls.jsonl"
    calls.write_bytes(calls.read_bytes()[:-cut])
    again = open_log(tmp_path)
    assert again.find("a") is not None
    assert again.find("b") is None
    add(again, "b", "second")
    again.close()
    assert open_log(tmp_path).find("b") is not None


def test_a_reply_whose_text_is_lost_or_altered_counts_as_not_answered(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    add(log, "a", "the text")
    file = next(tmp_path.glob(f"texts/*/{sha256_text('the text')}.txt.gz"))
    file.write_bytes(gzip.compress(b"another text"))
    assert log.find("a") is None
    file.unlink()
    assert log.find("a") is None
    add(log, "a", "the text")
    assert log.find("a") is not None


def test_texts_are_kept_compressed_under_the_hash_of_the_plain_text_and_equal_ones_with_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "o(t) = S(t) q(t)\n" * 200
    add(open_log(tmp_path / "a"), "k", text)
    monkeypatch.setattr("time.time", lambda: 1.0)
    add(open_log(tmp_path / "b"), "k", text)
    one, other = (next((tmp_path / name).glob(f"texts/*/{sha256_text(text)}.txt.gz")) for name in "ab")
    assert one.read_bytes() == other.read_bytes()
    assert gzip.decompress(one.read_bytes()).decode() == text
    assert len(one.read_bytes()) < len(text) / 10


def test_texts_that_an_older_version_kept_plain_are_still_read(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    add(log, "a", "the text")
    file = next(tmp_path.glob(f"texts/*/{sha256_text('the text')}.txt.gz"))
    file.with_suffix("").write_text("the text")
    file.unlink()
    found = log.find("a")
    assert found is not None
    assert found.text == "the text"


@pytest.mark.parametrize("keep", [0, 5, 20])
def test_a_text_cut_short_counts_as_lost(tmp_path: Path, keep: int) -> None:
    log = open_log(tmp_path)
    add(log, "a", "the text")
    file = next(tmp_path.glob(f"texts/*/{sha256_text('the text')}.txt.gz"))
    file.write_bytes(file.read_bytes()[:keep])
    assert log.find("a") is None


def test_totals_are_kept_per_role(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    add(log, "a", "x")
    add(log, "b", "y")
    add(log, "c", "z", role="judge")
    totals = log.totals()
    assert (totals["researcher"].count, totals["researcher"].reply_tokens, totals["researcher"].seconds) == (2, 6, 3.0)
    assert totals["judge"].prompt_tokens == 10


def recording_of(folder: Path, *entries: tuple[str, str, str, str]) -> Path:
    """A recording made from real log lines: (role, rung, method, text) each."""
    log = open_log(folder / "source")
    for number, (role, rung, method, text) in enumerate(entries):
        add(log, f"k{number}", text, role=role, rung=rung, method=method)
    assert record(log, folder / "recording.jsonl") == len(entries)
    return folder / "recording.jsonl"


def test_a_recording_answers_by_rung_and_method_and_falls_back_to_fewer(tmp_path: Path) -> None:
    path = recording_of(
        tmp_path,
        ("researcher", "grammar_edit", "beta", "edit of beta"),
        ("researcher", "grammar_edit", "decay", "edit of decay"),
        ("researcher", "whole_module", "", "module"),
        ("judge", "", "", "{}"),
    )
    client = RecordedClient(path, open_log(tmp_path / "campaign"))
    assert client.complete(request("1", rung="grammar_edit", method="decay")).text == "edit of decay"
    assert client.complete(request("2", rung="grammar_edit", method="other")).text.startswith("edit of")
    assert client.complete(request("3", rung="whole_module", method="other")).text == "module"
    assert client.complete(request("4", rung="method_splice", method="x")).text in (
        "module",
        "edit of beta",
        "edit of decay",
    )
    with pytest.raises(ModelServerError, match="no reply of role analyst"):
        client.complete(request("5", role="analyst"))


def test_the_same_key_gets_the_same_recorded_reply_and_the_call_is_logged(tmp_path: Path) -> None:
    path = recording_of(tmp_path, *(("researcher", "whole_module", "", f"module {n}") for n in range(20)))
    first, second = open_log(tmp_path / "a"), open_log(tmp_path / "b")
    keys = [f"g0001/s{n:03d}/t0/researcher" for n in range(12)]
    one = [RecordedClient(path, first).complete(request(key, rung="whole_module")).text for key in keys]
    other = [RecordedClient(path, second).complete(request(key, rung="whole_module")).text for key in reversed(keys)]
    assert one == other[::-1]
    assert len(set(one)) > 3
    assert [call.key for call in first.calls()] == keys
    assert record(first, tmp_path / "again.jsonl") == 12


@pytest.mark.parametrize(
    "content, said", [("", "is empty"), ("{}\n", "line 1"), ('{"role":"judge","reply":"x"}\nnonsense\n', "line 2")]
)
def test_a_bad_recording_is_refused_with_its_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "r.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_recording(tmp_path / "r.jsonl")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recording(tmp_path / "none.jsonl")


def test_the_prompt_hash_depends_on_all_that_decides_the_answer() -> None:
    asked = request("a")
    others = [
        replace(asked, grammar='root ::= "x"'),
        replace(asked, json_schema={"type": "object"}),
        replace(asked, sampling=Sampling(temperature=0.6, top_p=1, max_tokens=8)),
        replace(asked, messages=({"role": "user", "content": "other"},)),
    ]
    assert len({prompt_text(one) for one in [asked, *others]}) == 5
    assert prompt_text(replace(asked, key="other")) == prompt_text(asked)


def test_the_prompt_of_a_call_is_kept_and_logs_from_before_prompts_had_versions_are_read(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    asked = replace(request("a"), prompt="judge@3")
    log.record(asked, reply(asked, "x"))
    log.close()
    assert read_calls(tmp_path / "calls.jsonl")[0].prompt == "judge@3"
    older = to_json(read_calls(tmp_path / "calls.jsonl")[0])
    del older["prompt"]
    assert from_json(Call, older).prompt == ""

"""A campaign run again from its own calls: same key, same question, same answer, or a line that says which one not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from arch_search.agents.call_log import CallLog, prompt_text
from arch_search.agents.recording import record
from arch_search.agents.replay import ReplayClient
from arch_search.config import Sampling
from arch_search.errors import ConfigError, ModelServerError, ReplyError
from arch_search.paths import CampaignPaths
from arch_search.protocols import ModelReply, ModelRequest
from cognition_db.records import sha256_text

ASKED = ModelRequest(
    key="g0001/s000/t0/researcher",
    role="researcher",
    messages=({"role": "user", "content": "Rewrite def decay"},),
    sampling=Sampling(temperature=0.5, top_p=1, max_tokens=8),
)


def log_of(folder: Path) -> CallLog:
    paths = CampaignPaths(folder)
    return CallLog(paths.calls, paths.text)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A campaign folder with one answered call and one that the server refused."""
    log = log_of(tmp_path / "earlier")
    reply = ModelReply(
        text="def decay", finished=True, model="real", prompt_tokens=10, reply_tokens=3, seconds=1.5,
        prompt_sha256=sha256_text(prompt_text(ASKED)), reply_sha256=sha256_text("def decay"),
    )  # fmt: skip
    log.record(ASKED, reply)
    log.refuse(replace(ASKED, key="refused"), "refused: too long")
    log.close()
    return tmp_path / "earlier"


def test_a_call_is_answered_as_before_and_logged(earlier: Path, tmp_path: Path) -> None:
    here = log_of(tmp_path / "again")
    reply = ReplayClient(earlier, here).complete(ASKED)
    assert (reply.text, reply.model, reply.seconds) == ("def decay", "real", 1.5)
    assert here.calls() == log_of(earlier).calls()[:1]


def test_a_request_that_was_refused_is_refused_again_for_the_same_reason(earlier: Path, tmp_path: Path) -> None:
    here = log_of(tmp_path / "again")
    for _ in range(2):  # from the earlier campaign, then from the log of this one
        with pytest.raises(ReplyError, match=r"^refused: too long$"):
            ReplayClient(earlier, here).complete(replace(ASKED, key="refused"))
    assert len(here.calls()) == 1


def test_another_prompt_under_the_same_key_is_named(earlier: Path, tmp_path: Path) -> None:
    other = replace(ASKED, messages=({"role": "user", "content": "Rewrite def beta"},))
    with pytest.raises(ModelServerError, match=r"g0001/s000/t0/researcher: the prompt is another than in .*earlier"):
        ReplayClient(earlier, log_of(tmp_path / "again")).complete(other)


def test_a_call_that_was_not_asked_is_named(earlier: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelServerError, match=r"g0009/x: this call was not asked in .*earlier"):
        ReplayClient(earlier, log_of(tmp_path / "again")).complete(replace(ASKED, key="g0009/x"))


def test_a_lost_reply_is_named(earlier: Path, tmp_path: Path) -> None:
    for file in (earlier / "texts").rglob(f"{sha256_text('def decay')}*"):
        file.unlink()
    with pytest.raises(ModelServerError, match="the text of the reply is lost"):
        ReplayClient(earlier, log_of(tmp_path / "again")).complete(ASKED)


def test_a_folder_without_calls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no campaign with answered calls"):
        ReplayClient(tmp_path, log_of(tmp_path / "again"))


def test_a_refused_request_is_no_reply_of_a_recording(earlier: Path, tmp_path: Path) -> None:
    assert record(log_of(earlier), tmp_path / "r.jsonl") == 1

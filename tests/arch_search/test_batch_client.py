"""A batch that a job has answered: its replies and its refusals reach whoever asks, without another job."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from arch_search import batch_client
from arch_search.agents.call_log import CallLog, prompt_text
from arch_search.batch_client import BatchClient
from arch_search.campaign import start_or_continue
from arch_search.config import Sampling
from arch_search.errors import ReplyError
from arch_search.protocols import ModelReply, ModelRequest
from arch_search.serving import batch, order
from arch_search.settings import load_config
from cognition_db.records import sha256_text


def request(key: str) -> ModelRequest:
    turns = ({"role": "user", "content": "?"},)
    sampling = Sampling(temperature=0.5, top_p=1, max_tokens=8)
    return ModelRequest(key=key, role="researcher", messages=turns, sampling=sampling)


@pytest.mark.timeout(60)
def test_a_request_that_the_server_refused_is_refused_by_the_batch_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(["campaign=smoke", "llm=vllm_batch", f"campaign.dir={tmp_path / 'c'}"])
    campaign = start_or_continue(config, command=["test"], base=tmp_path)
    paths = campaign.paths.batch(1)
    asked, too_long = request("a"), request("b")
    batch.write_requests([asked, too_long], paths.requests)
    answered = CallLog(paths.calls, paths.text)
    reply = ModelReply(
        text="def mix", finished=True, model="m", prompt_tokens=1, reply_tokens=1, seconds=0.1,
        prompt_sha256=sha256_text(prompt_text(asked)), reply_sha256=sha256_text("def mix"),
    )  # fmt: skip
    answered.record(asked, reply)
    answered.refuse(too_long, "b: the server refuses this request, HTTP 400: too long")
    answered.close()
    order.write_ending(
        order.Ending(reason="every request is answered", failed=False, unix=time.time()), paths.server.over
    )
    # nothing is served here
    monkeypatch.setattr(batch_client.environment, "require_environment", lambda llm: None)
    monkeypatch.setattr(batch_client.weights, "require_weights", lambda llm: None)

    log = CallLog(campaign.paths.calls, campaign.paths.text)
    client = BatchClient(campaign, log, say=lambda event: None)
    assert client.complete(asked).text == "def mix"
    with pytest.raises(ReplyError, match="HTTP 400: too long"):
        client.complete(too_long)
    assert {call.key: bool(call.refused) for call in log.calls()} == {"a": False, "b": True}

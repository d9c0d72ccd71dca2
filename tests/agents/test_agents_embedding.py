"""Nearness by embeddings, over real HTTP: right numbers, asked once, and what a server may send instead."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bad_server import Asked, Misbehaviour, bad_server, fails
from embedding_server import embedding_way, vector
from recorded_server import recorded_way

from arch_search.agents.call_log import CallLog
from arch_search.agents.client import OneServer, OpenAiClient
from arch_search.agents.embedding import Nearness
from arch_search.agents.replay import ReplayClient
from arch_search.campaign import start_or_continue
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.errors import ModelServerError
from arch_search.launching import make_launcher
from arch_search.model_access import ModelAccess
from arch_search.paths import CampaignPaths
from arch_search.proposing import Proposer
from arch_search.serving.endpoint import Endpoint
from arch_search.settings import load_config
from arch_search.steering import Steering
from arch_search.training import data
from cognition_db.experience.archive import ArchiveContents
from cognition_db.literature import load_insights, symptom
from cognition_db.records import Candidate, Lesson, candidate_id

INSIGHTS = load_insights()[:70]
REFERENCE = Candidate(
    id=candidate_id(SEED_PROGRAM), program=SEED_PROGRAM, class_name="DeltaNet", name="deltanet", arm="baseline",
    rung="copy", generation=0, slot=0, parents=(), motivation="", parameter_count=1,
)  # fmt: skip
OBSERVED = "stale content stays after a change of topic"
LLM = load_config(["llm=endpoint", "llm.base_url=http://x/v1", "llm.retries=1"]).llm


@contextmanager
def nearness_of(folder: Path, endpoint: Endpoint) -> Iterator[Nearness]:
    """As the driver of a campaign in the folder has it."""
    paths = CampaignPaths(folder)
    log = CallLog(paths.calls, paths.text)
    client = OpenAiClient(OneServer(endpoint), llm=LLM, log=log, sleep=lambda seconds: None)
    try:
        yield Nearness(lambda: client)
    finally:
        log.close()


def near(folder: Path, endpoint: Endpoint, *, observed: str = OBSERVED, count: int = len(INSIGHTS)) -> dict[str, float]:
    with nearness_of(folder, endpoint) as nearness:
        return nearness(observed, INSIGHTS[:count])


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("as_numbers", [False, True])
def test_nearness_is_the_cosine_of_the_two_embeddings(tmp_path: Path, as_numbers: bool) -> None:
    with bad_server(embedding_way(as_numbers=as_numbers)) as server:
        found = near(tmp_path, server.endpoint)
    expected = {one.id: cosine(vector(OBSERVED), vector(symptom(one))) for one in INSIGHTS}
    assert found == pytest.approx(expected, abs=1e-6)
    assert max(found.values()) > 0.3


def test_every_text_is_asked_for_once_in_a_campaign_whoever_its_driver_is(tmp_path: Path) -> None:
    with bad_server(embedding_way()) as server:
        first = near(tmp_path, server.endpoint)
        asked = server.asked
        assert near(tmp_path, server.endpoint) == first
        assert server.asked == asked == 3  # the observation, and the insights in two parts
        near(tmp_path, server.endpoint, observed="recall collapses")
        assert server.asked == 4
    assert near(tmp_path, server.endpoint) == first  # the server is gone


def test_a_replay_has_the_vectors_of_then(tmp_path: Path) -> None:
    with bad_server(embedding_way()) as server:
        first = near(tmp_path / "then", server.endpoint)
    paths = CampaignPaths(tmp_path / "now")
    replay = ReplayClient(tmp_path / "then", CallLog(paths.calls, paths.text))
    assert Nearness(lambda: replay)(OBSERVED, INSIGHTS) == first


def _numbers(count: int, value: float) -> str:
    return base64.b64encode(np.full(count, value, dtype="<f4").tobytes()).decode()


def each(embedding: Any) -> Callable[[dict[str, Any]], None]:
    return lambda whole: [one.update(embedding=embedding) for one in whole["data"]] and None


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole["data"].clear(),
        lambda whole: whole.pop("data"),
        lambda whole: whole["data"].append(whole["data"][0]),
        lambda whole: whole["data"][0].update(index=7),
        each("not base64!"),
        each("YWI="),
        each(""),
        each([]),
        each(["a"]),
        each(_numbers(4, float("nan"))),
        each(_numbers(4, float("inf"))),
        each(_numbers(4, 0.0)),
        each(None),
        each([1e300, 1.0]),
        lambda whole: whole.update(data="x" * 1000),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_an_answer_that_holds_no_usable_vectors_is_asked_for_again_and_then_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    with bad_server(embedding_way(change=change)) as server:
        with pytest.raises(ModelServerError, match="an answer that is no list of embeddings"):
            near(tmp_path, server.endpoint)
        assert server.asked == 2
    with bad_server(embedding_way(change=change), embedding_way()) as server:
        assert near(tmp_path, server.endpoint, count=1)


def test_vectors_of_unequal_widths_in_one_answer_are_refused(tmp_path: Path) -> None:
    def uneven(whole: dict[str, Any]) -> None:
        if len(whole["data"]) > 1:
            whole["data"][0]["embedding"] = _numbers(5, 1.0)

    with (
        bad_server(embedding_way(change=uneven)) as server,
        pytest.raises(ModelServerError, match="no list of embeddings"),
    ):
        near(tmp_path, server.endpoint)


def reads(longest: int) -> Misbehaviour:
    refuse, good = fails(400), embedding_way()

    def act(asked: Asked) -> None:
        (refuse if max(map(len, asked.body["input"])) > longest else good.act)(asked)

    return Misbehaviour("reads little", act, "taken")


def test_a_text_that_the_model_cannot_read_whole_is_cut(tmp_path: Path) -> None:
    long = f"{OBSERVED} " * 40
    with bad_server(reads(700)) as server:  # more than any symptom has
        found = near(tmp_path, server.endpoint, observed=long)
    assert found == pytest.approx(
        {one.id: cosine(vector(long[:600]), vector(symptom(one))) for one in INSIGHTS}, abs=1e-6
    )


def test_a_model_that_reads_nothing_is_named(tmp_path: Path) -> None:
    with bad_server(reads(10)) as server, pytest.raises(ModelServerError, match=r"HTTP 400.*300 characters"):
        near(tmp_path, server.endpoint)


@pytest.mark.parametrize("change", [lambda whole: whole.update(model="other"), each([1.0, 2.0])])
def test_another_model_than_before_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with bad_server(embedding_way()) as server:
        near(tmp_path, server.endpoint)
    with (
        bad_server(embedding_way(change=change)) as server,
        pytest.raises(ModelServerError, match=r"embedded by words \(96\) in this campaign"),
    ):
        near(tmp_path, server.endpoint, observed="something else")


@pytest.mark.slow
@pytest.mark.parametrize("retrieval", ["bm25", "embedding"])
def test_a_campaign_asks_for_embeddings_of_what_was_observed_where_its_settings_say_so(
    tmp_path: Path, retrieval: str
) -> None:
    with bad_server(recorded_way()) as server, bad_server(embedding_way()) as near:
        settings = [
            "campaign=smoke", "campaign.tries_per_slot=1", "data.max_bytes=200000", "slurm=inline",
            "campaign.slots.grammar_edit=1", "campaign.slots.grammar_program=0", "campaign.slots.mutation=0",
            "campaign.slots.placebo=0", f"campaign.dir={tmp_path / 'c'}", f"roles.retrieval={retrieval}",
            "llm=endpoint", f"llm.base_url={server.endpoint.base_url}", "llm.endpoints.near.model=words",
            f"llm.endpoints.near.base_url={near.endpoint.base_url}",
        ]  # fmt: skip
        settings += ["llm.roles.embedding=near"] if retrieval == "embedding" else []
        campaign = start_or_continue(load_config(settings), command=["test"], base=tmp_path)
        data.prepare(campaign.config.data, campaign.paths.data)
        log = CallLog(campaign.paths.calls, campaign.paths.text)
        model = ModelAccess(campaign, log, say=print, pump=lambda: None)
        proposer = Proposer(
            campaign,
            steering=Steering(),
            launcher=make_launcher(campaign),
            client=model.client,
            calls=log,
            pump=lambda: None,
            say=print,
        )
        lesson = Lesson(candidate_id=REFERENCE.id, generation=0, outcome="within_noise", difference=0.0, text=OBSERVED)
        proposer.fill(1, ArchiveContents(candidates=(REFERENCE,), lessons=(lesson,)), REFERENCE)
    asked = [call for call in log.calls() if call.role == "embedding"]
    assert [call.role for call in log.calls() if call not in asked] == ["researcher"]
    assert bool(asked) == bool(near.asked) == (retrieval == "embedding")
    prompts = [log.text(call.prompt_sha256) or "" for call in asked]
    assert any(OBSERVED in prompt for prompt in prompts) == (retrieval == "embedding")

"""Every misbehaviour of a model server, met on the real paths of a campaign, ends in a reason and in time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bad_server import ALL, BadServer, Misbehaviour, bad_server, fails

from arch_search.agents.call_log import CallLog
from arch_search.agents.client import OneServer, OpenAiClient
from arch_search.analysing import analyse
from arch_search.campaign import Campaign, start_or_continue
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.errors import ModelServerError
from arch_search.generation import read_tries
from arch_search.launching import make_launcher
from arch_search.proposing import Proposer
from arch_search.protocols import ModelRequest
from arch_search.settings import load_config
from arch_search.steering import Steering
from arch_search.training import data
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Arm, Candidate, candidate_id

pytestmark = pytest.mark.slow
LIMIT_S, RETRIES = 30, 1
SHORT_LIMIT_S = 1  # for servers that are known to use all of it
MARGIN_S = 15.0  # for a machine with other work to do
SETTINGS = (
    "campaign=smoke", "campaign.generations=1000", "campaign.tries_per_slot=1", "data.max_bytes=200000",
    "campaign.slots.grammar_edit=1", "campaign.slots.grammar_program=0", "campaign.slots.whole_module=1",
    "campaign.slots.mutation=0", "campaign.slots.placebo=0", "roles.planner_enabled=true", "slurm=inline",
    "llm=endpoint", f"llm.request_limit_s={LIMIT_S}", f"llm.retries={RETRIES}",
    "llm.base_url=http://127.0.0.1:9/v1",
)  # fmt: skip
NUMBERS = count(1)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    base = tmp_path_factory.mktemp("bad")
    made = start_or_continue(load_config([*SETTINGS, f"campaign.dir={base / 'c'}"]), command=["test"], base=base)
    data.prepare(made.config.data, made.paths.data)
    yield made
    made.journal.close()


def program(text: str, arm: Arm, generation: int) -> Candidate:
    return Candidate(
        id=candidate_id(text), program=text, class_name="DeltaNet", name="one", arm=arm, rung="copy",
        generation=generation, slot=0, parents=(), motivation="the gate was left out", parameter_count=1,
    )  # fmt: skip


REFERENCE = program(SEED_PROGRAM, "baseline", 0)


def log_of(campaign: Campaign, number: int) -> CallLog:
    return CallLog(campaign.paths.root / f"calls-{number}.jsonl", campaign.paths.text)


def client_of(server: BadServer, campaign: Campaign, log: CallLog, limit_s: int = LIMIT_S) -> OpenAiClient:
    llm = replace(campaign.config.llm, request_limit_s=limit_s)
    return OpenAiClient(OneServer(server.endpoint), llm=llm, log=log, sleep=lambda seconds: None)


def fill(campaign: Campaign, server: BadServer, said: list[str], limit_s: int = LIMIT_S) -> int:
    """Fill the two slots of a new generation, an edit and a whole module, from that server."""
    number = next(NUMBERS)
    calls = log_of(campaign, number)
    client = client_of(server, campaign, calls, limit_s)
    proposer = Proposer(
        campaign,
        steering=Steering(),
        launcher=make_launcher(campaign),
        client=lambda: client,
        calls=calls,
        pump=lambda: None,
        say=said.append,
    )
    proposer.fill(number, ArchiveContents(candidates=(REFERENCE,)), REFERENCE)
    return number


def ways(end: str) -> list[Misbehaviour]:
    return [way for way in ALL if way.end == end]


def named(way: Misbehaviour) -> str:
    return way.name


def require_one_clean_line(text: str) -> None:
    assert text.strip()
    assert text.isprintable()
    assert len(text) <= 500
    text.encode()


def test_there_are_at_least_thirty_and_no_name_comes_twice() -> None:
    assert len({way.name for way in ALL}) == len(ALL) >= 30


@pytest.mark.parametrize("way", ways("refused"), ids=named)
def test_a_bad_reply_is_a_refused_try_with_a_reason(campaign: Campaign, way: Misbehaviour) -> None:
    said: list[str] = []
    with bad_server(way) as server:
        began = time.monotonic()
        number = fill(campaign, server, said)
        assert time.monotonic() - began < LIMIT_S
    tries = read_tries(campaign.generation(number))
    assert [one.candidate for one in tries] == [None, None]
    for one in tries:
        assert one.proposal.writing is not None
        (no_plan,) = one.proposal.writing.unusable
        assert no_plan.startswith("planner: ")
        require_one_clean_line(no_plan)
        refusing = [verdict for verdict in one.verdicts if verdict.refuses]
        assert [verdict.check for verdict in refusing] in (["reply"], ["program"], ["repair"])
        require_one_clean_line(refusing[0].reason)
    for event in said:
        assert event.isprintable()


@pytest.mark.parametrize("way", ways("refused"), ids=named)
def test_a_bad_reply_leaves_a_lesson_without_words_and_says_why(campaign: Campaign, way: Misbehaviour) -> None:
    number = next(NUMBERS)
    candidate = program(f"{SEED_PROGRAM}\nSCALE = {number}\n", "evolve", number)
    contents = ArchiveContents(candidates=(REFERENCE, candidate))
    with bad_server(way) as server:
        client = client_of(server, campaign, log_of(campaign, number))
        (lesson,) = analyse(campaign, number, contents, client=client, reference_id=REFERENCE.id)
    assert (lesson.outcome, lesson.text, lesson.judge_score) == ("not_measured", "", None)
    assert lesson.analysis is not None
    assert [reason.partition(":")[0] for reason in lesson.analysis.unusable] == ["analyst", "judge"]
    for reason in lesson.analysis.unusable:
        require_one_clean_line(reason)


@pytest.mark.parametrize("way", ways("no answer"), ids=named)
def test_a_server_without_an_answer_is_an_error_of_one_line_in_time(campaign: Campaign, way: Misbehaviour) -> None:
    with bad_server(way) as server:
        began = time.monotonic()
        with pytest.raises(ModelServerError) as caught:
            fill(campaign, server, [], SHORT_LIMIT_S)
        assert time.monotonic() - began < (1 + RETRIES) * SHORT_LIMIT_S + MARGIN_S
        assert server.asked <= 2 * (1 + RETRIES)
    require_one_clean_line(str(caught.value))


@pytest.mark.parametrize("way", ways("taken"), ids=named)
def test_an_odd_wrapping_does_not_cost_the_reply(campaign: Campaign, way: Misbehaviour) -> None:
    sampling = replace(campaign.config.roles.researcher, max_tokens=100)
    turns = ({"role": "user", "content": "Rewrite def decay(self, q, k, v, x):"},)
    request = ModelRequest(key=way.name, role="researcher", messages=turns, sampling=sampling)
    with bad_server(way) as server:
        reply = client_of(server, campaign, log_of(campaign, next(NUMBERS))).complete(request)
    assert reply.text.startswith("def decay(self, o, x):")
    assert 0 <= reply.prompt_tokens < 10**9
    assert 0 <= reply.reply_tokens < 10**9
    require_one_clean_line(reply.model)


def test_a_redirection_is_not_followed(campaign: Campaign) -> None:
    with bad_server(*ways("taken")[:1]) as elsewhere:
        there = f"{elsewhere.endpoint.base_url}/chat/completions"
        way = Misbehaviour("moved", fails(307, Location=there), "no answer")
        with bad_server(way) as server, pytest.raises(ModelServerError, match="HTTP 307"):
            fill(campaign, server, [])
        assert elsewhere.asked == 0

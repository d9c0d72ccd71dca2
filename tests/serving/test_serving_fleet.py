"""The fleet over real HTTP servers that give tokens, hang or are gone; without a Slurm, so none is submitted."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from arch_search.agents.call_log import CallLog
from arch_search.agents.client import OpenAiClient
from arch_search.campaign import Campaign, open_or_create
from arch_search.config import Sampling
from arch_search.errors import ConfigError, ModelServerError
from arch_search.fleet import Fleet, Pace
from arch_search.protocols import ModelRequest
from arch_search.serving.endpoint import Endpoint, JobEndpoint, read_job_endpoint, write_job_endpoint
from arch_search.serving.order import Ending, read_ending, write_ending, write_order
from arch_search.settings import load_config
from slurm.errors import UnavailableError

FAST = Pace(step_s=0.05, probe_every_s=0.0, probe_again_s=0.0, probe_limit_s=2.0)
_Peers = Callable[[], "Peer"]


class Peer:
    """A server that gives tokens until it `hangs`; then it still accepts connections."""

    def __init__(self) -> None:
        self.hangs = False
        self.asked: list[str] = []
        peer = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                peer.asked.append(asked["messages"][-1]["content"])
                if peer.hangs:
                    time.sleep(4)
                    return
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}
                body = json.dumps({"model": "m", "choices": [choice]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def questions(self) -> list[str]:
        """What it was asked, without probes."""
        return [text for text in self.asked if text != "Hi"]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def peers() -> Iterator[_Peers]:
    made: list[Peer] = []

    def make() -> Peer:
        made.append(Peer())
        return made[-1]

    yield make
    for one in made:
        one.close()


def make_campaign(folder: Path, *overrides: str) -> Campaign:
    config = load_config(["campaign=smoke", "llm=vllm_job", "llm.request_limit_s=10", "llm.retries=3", *overrides])
    return open_or_create(folder / "campaign", config, command=["test"])


def publish(campaign: Campaign, name: str, peer: Peer, *, ends_in_s: float = 9000.0) -> None:
    """What the job of a server leaves in its folder."""
    paths = campaign.paths.server(name)
    write_order(campaign.config.llm, paths.order)
    endpoint = Endpoint(base_url=f"http://127.0.0.1:{peer.server.server_port}/v1", model="m", api_key="secret")
    served = JobEndpoint(
        endpoint=endpoint, job_id="7", node="n1", started_unix=time.time() - 60, ends_unix=time.time() + ends_in_s
    )
    write_job_endpoint(served, endpoint_file=paths.endpoint, key_file=paths.key)


def make_fleet(campaign: Campaign, *, said: list[str] | None = None) -> Fleet:
    return Fleet(campaign, say=(said if said is not None else []).append, pace=FAST)


def ask(campaign: Campaign, fleet: Fleet, *keys: str) -> None:
    log = CallLog(campaign.paths.calls, campaign.paths.text)
    client = OpenAiClient(fleet, llm=campaign.config.llm, log=log, sleep=lambda seconds: None)
    for key in keys:
        sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=4)
        messages = ({"role": "user", "content": key},)
        client.complete(ModelRequest(key=key, role="researcher", messages=messages, sampling=sampling))
    log.close()


def test_requests_go_to_the_servers_in_turn(tmp_path: Path, peers: _Peers) -> None:
    campaign, one, other = make_campaign(tmp_path, "llm.job.replicas=2"), peers(), peers()
    publish(campaign, "r0-0001", one)
    publish(campaign, "r1-0001", other)
    fleet = make_fleet(campaign)
    assert fleet.waiting() != "", "none has passed a probe from here"
    fleet.step()
    assert fleet.waiting() == ""
    ask(campaign, fleet, "a", "b", "c", "d")
    assert [len(one.questions), len(other.questions)] == [2, 2]


def test_a_server_whose_request_failed_is_skipped_until_it_gives_a_token_again(tmp_path: Path, peers: _Peers) -> None:
    campaign, one, other = make_campaign(tmp_path, "llm.job.replicas=2"), peers(), peers()
    publish(campaign, "r0-0001", one)
    publish(campaign, "r1-0001", other)
    fleet = make_fleet(campaign)
    fleet.step()
    one.hangs = True
    ask(campaign, fleet, "a", "b", "c")
    assert len(one.questions) == 1
    assert other.questions == ["a", "b", "c"]
    one.hangs = False
    fleet.step()
    ask(campaign, fleet, "d", "e")
    assert len(one.questions) == 2


def test_a_server_that_gives_no_token_twice_is_done_with_and_a_next_one_asked_for(
    tmp_path: Path, peers: _Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/timeout").symlink_to(str(shutil.which("timeout")))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    campaign, peer, said = make_campaign(tmp_path), peers(), list[str]()
    publish(campaign, "r0-0001", peer)
    fleet = make_fleet(campaign, said=said)
    fleet.waiting()
    fleet.step()
    peer.hangs = True
    fleet.step()
    assert read_ending(campaign.paths.server("r0-0001").over) is None
    with pytest.raises(UnavailableError):
        fleet.step()
    ending = read_ending(campaign.paths.server("r0-0001").over)
    assert ending is not None
    assert ending.failed
    assert "gave no token" in ending.reason
    assert campaign.paths.server("r0-0002").order.exists()


def test_two_servers_of_one_replica_end_with_the_younger_once_the_older_has_no_request(
    tmp_path: Path, peers: _Peers
) -> None:
    campaign, old, new = make_campaign(tmp_path), peers(), peers()
    publish(campaign, "r0-0001", old)
    fleet = make_fleet(campaign)
    fleet.step()
    held = fleet.take()
    publish(campaign, "r0-0002", new)
    fleet = make_fleet(campaign)
    fleet.waiting()
    fleet.step()
    busy = fleet.take()
    assert busy != held, "requests move to the new one at once"
    fleet.give_back(busy, failed=False)
    fleet.step()
    assert read_ending(campaign.paths.server("r0-0001").over) is not None
    assert read_ending(campaign.paths.server("r0-0002").over) is None


def test_a_draining_server_stays_while_a_request_is_in_flight(tmp_path: Path, peers: _Peers) -> None:
    campaign, old, other = make_campaign(tmp_path, "llm.job.replicas=2"), peers(), peers()
    publish(campaign, "r0-0001", old)
    publish(campaign, "r1-0001", other)
    fleet = make_fleet(campaign)
    fleet.step()
    addresses = [fleet.take(), fleet.take()]
    fewer = replace(campaign.config.llm, job=replace(campaign.config.llm.job, replicas=1))
    fleet._llm = fewer
    fleet.step()
    fleet.step()
    over = campaign.paths.server("r1-0001").over
    assert read_ending(over) is None
    for address in addresses:
        fleet.give_back(address, failed=False)
    fleet.step()
    assert read_ending(over) is not None


def test_a_released_fleet_submits_nothing_until_somebody_asks_again(tmp_path: Path, peers: _Peers) -> None:
    campaign = make_campaign(tmp_path)
    publish(campaign, "r0-0001", peers())
    keeping, ending = make_fleet(campaign), make_fleet(campaign)
    keeping.waiting()
    keeping.step()
    ending.release()
    over = read_ending(campaign.paths.server("r0-0001").over)
    assert over is not None
    assert not over.failed
    write_ending(Ending(reason="told", failed=True, unix=time.time()), campaign.paths.server("r0-0001").ended)
    keeping.step()
    assert not campaign.paths.server("r0-0002").order.exists()


def test_a_server_that_nobody_asks_is_released(tmp_path: Path, peers: _Peers) -> None:
    campaign = make_campaign(tmp_path, "llm.job.idle_min=0.001")
    publish(campaign, "r0-0001", peers())
    fleet = make_fleet(campaign)
    fleet.tend()
    ending = read_ending(campaign.paths.server("r0-0001").over)
    assert ending is not None
    assert ending.reason == "released: not asked for 0.001 min"


def test_failures_in_a_row_end_the_waiting_with_the_last_reason_and_a_second_start_tries_again(tmp_path: Path) -> None:
    campaign = make_campaign(tmp_path)
    for number in (1, 2, 3, 4):
        paths = campaign.paths.server(f"r0-000{number}")
        write_order(campaign.config.llm, paths.order)
        write_ending(Ending(reason=f"r0-000{number}: no memory", failed=True, unix=time.time()), paths.over)
    fleet = make_fleet(campaign)
    fleet.waiting()
    with pytest.raises(ModelServerError, match=r"4 model servers in a row failed, the last one: r0-0004: no memory"):
        fleet.step()
    endings = [read_ending(campaign.paths.server(f"r0-000{number}").over) for number in (1, 2, 3, 4)]
    assert not any(ending.failed for ending in endings if ending)


def test_a_driver_that_may_not_submit_any_more_leaves_the_fleet_alone(tmp_path: Path) -> None:
    def require() -> None:
        raise ModelServerError("another driver has taken over")

    campaign = make_campaign(tmp_path)
    fleet = Fleet(campaign, say=print, require=require, pace=FAST)
    fleet.waiting()
    with pytest.raises(ModelServerError, match="taken over"):
        fleet.step()
    assert not campaign.paths.servers.exists()


def test_servers_that_would_follow_one_another_without_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"llm\.job\.replace_before_min=20 is more than half of .*timeout_min=30"):
        make_campaign(tmp_path, "llm.job.timeout_min=30")


def test_the_endpoint_of_a_job_is_read_back_whole_and_its_key_is_the_owners(tmp_path: Path, peers: _Peers) -> None:
    campaign = make_campaign(tmp_path)
    publish(campaign, "r0-0001", peers())
    paths = campaign.paths.server("r0-0001")
    served = read_job_endpoint(paths.endpoint)
    assert served is not None
    assert served.endpoint.api_key == "secret"
    assert served.endpoint.is_local, "no proxy stands between the nodes of a cluster"
    assert paths.key.stat().st_mode & 0o777 == 0o600
    assert "secret" not in paths.endpoint.read_text()
    paths.key.unlink()
    assert read_job_endpoint(paths.endpoint) is None

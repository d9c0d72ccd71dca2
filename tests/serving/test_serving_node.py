"""A server on a node: its address, its port, what it refuses to do there."""

from __future__ import annotations

import signal
import socket
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from arch_search.config import Sampling
from arch_search.errors import ModelServerError, WeightsError
from arch_search.protocols import ModelRequest
from arch_search.serving import environment, weights
from arch_search.serving.batch import read_requests, write_requests
from arch_search.serving.job import ends_unix
from arch_search.serving.node import ToldToEndError, ends_when_told, free_ports, node_address
from arch_search.serving.order import Ending, read_ending, read_order, write_ending, write_order
from arch_search.settings import load_config


def test_the_port_follows_from_the_job_and_a_taken_one_is_left_to_its_owner() -> None:
    first, second, _ = islice(free_ports("127.0.0.1", 4711), 3)
    assert first >= 20_000 + 4711
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", first))
        assert next(free_ports("127.0.0.1", 4711)) == second


def test_a_port_that_was_found_can_be_bound_at_once() -> None:
    ports = free_ports("127.0.0.1", 815)
    with socket.socket() as server:
        server.bind(("127.0.0.1", next(ports)))


def test_the_address_is_the_one_on_the_way_to_the_host_that_submitted() -> None:
    assert node_address({"SLURM_SUBMIT_HOST": "127.0.0.1"}) == "127.0.0.1"


def test_the_end_of_a_job_is_what_slurm_says_and_else_the_time_asked_for() -> None:
    assert ends_unix({"SLURM_JOB_END_TIME": "5000"}, began_unix=1000, timeout_min=10) == 5000
    assert ends_unix({}, began_unix=1000, timeout_min=10) == 1600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_of_slurm_ends_the_job_once_and_not_its_clearing_up(number: signal.Signals) -> None:
    kept = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        with ends_when_told(), pytest.raises(ToldToEndError, match=number.name):
            signal.raise_signal(number)
        signal.raise_signal(number)
    finally:
        for each, handler in kept.items():
            signal.signal(each, handler)


def test_an_order_names_its_folders_from_the_root_wherever_the_job_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    llm = replace(load_config([]).llm, weights="weights", env_dir="env")
    write_order(llm, tmp_path / "order.json")
    read = read_order(tmp_path / "order.json")
    assert read.weights == str(tmp_path / "weights")
    assert read.env_dir == str(tmp_path / "env")
    assert read == replace(llm, weights=read.weights, env_dir=read.env_dir, cache_dir=read.cache_dir)


def test_an_order_of_another_version_and_a_damaged_ending_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text("{}")
    with pytest.raises(ModelServerError, match=r"order.json: no order for a model server"):
        read_order(tmp_path / "order.json")
    write_ending(Ending(reason="told", failed=False, unix=1.0), tmp_path / "ended.json")
    assert read_ending(tmp_path / "ended.json") == Ending(reason="told", failed=False, unix=1.0)
    (tmp_path / "ended.json").write_text("{")
    assert read_ending(tmp_path / "ended.json") is None


def test_the_requests_of_a_batch_are_read_back_as_they_were_asked(tmp_path: Path) -> None:
    request = ModelRequest(
        key="g0001/s000/t0/researcher",
        role="researcher",
        messages=({"role": "user", "content": "größer?"},),
        sampling=Sampling(temperature=0.5, top_p=0.9, max_tokens=16),
        json_schema={"type": "object"},
    )
    write_requests([request, replace(request, key="b", grammar="root", json_schema=None)], tmp_path / "requests.json")
    first, second = read_requests(tmp_path / "requests.json")
    assert first == request
    assert (second.key, second.grammar, second.json_schema) == ("b", "root", None)


def test_nothing_is_installed_or_fetched_where_a_job_runs(tmp_path: Path) -> None:
    llm = replace(
        load_config([]).llm, kind="vllm_job", env_dir=str(tmp_path / "env"), cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(ModelServerError, match=r"no environment of vLLM.*arch-search prefetch llm=vllm_job"):
        environment.require_environment(llm)
    with pytest.raises(WeightsError, match=r"no weights in .*arch-search prefetch llm=vllm_job"):
        weights.require_weights(replace(llm, model="nobody-has-this"))
    assert list(tmp_path.iterdir()) == []


def test_the_build_of_vllm_for_a_job_follows_from_what_the_job_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = replace(load_config([]).llm, kind="vllm_job")
    monkeypatch.setattr(environment, "has_nvidia_gpu", lambda: True)
    assert not environment.serves_on_gpu(llm), "a login node with a GPU says nothing of the node of the job"
    assert environment.serves_on_gpu(replace(llm, job=replace(llm.job, gres="gpu:1")))
    assert environment.serves_on_gpu(replace(llm, kind="vllm"))

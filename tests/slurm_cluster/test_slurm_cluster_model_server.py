"""Model servers as jobs of a real Slurm: real vLLM with SmolLM2-135M-Instruct, killed, hung, replaced, released."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arch_search.serving.machine import cpu_support
from cognition_db.experience.archive import read_archive
from tests.slurm_cluster.cluster import SlurmCluster
from tests.slurm_cluster.model import WEIGHTS, model_of

DRIVE = Path(__file__).with_name("drive_fleet.py")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not cpu_support().ok, reason=cpu_support().reason),
    pytest.mark.skipif(not WEIGHTS.is_dir(), reason="run arch-search prefetch llm.model=smollm2-135m-instruct"),
]
POLITE = {"ARCH_SEARCH_POLL_LEAST_S": "0.5"}


@pytest.fixture(scope="module")
def settings(slurm_cluster: SlurmCluster) -> list[str]:
    """Overrides for a server that the user of the cluster can run, and for a quick campaign."""
    return [
        *model_of(slurm_cluster), "campaign=smoke", "llm.context_tokens=1024", "llm.parallel_requests=2",
        "llm.threads=1", "llm.start_limit_s=600", "llm.request_limit_s=120", "llm.job.memory_gb=4",
        "llm.job.cpus_per_task=2", "slurm.poll_s=1",
    ]  # fmt: skip


def drive(cluster: SlurmCluster, name: str, scenario: str, overrides: list[str]) -> dict[str, Any]:
    """What the scenario saw; its events are in the output of a failing test."""
    cwd = cluster.make_folder(name)
    done = cluster.run_as_user([cluster.python, str(DRIVE), scenario, *overrides], cwd=cwd, timeout_s=1500, env=POLITE)
    print(done.stdout[-6000:], done.stderr[-3000:])
    for log in sorted(cwd.rglob("server.log")):
        print(f"--- {log.parent.name}", log.read_text(errors="replace")[-1500:])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def wait_until(is_true: Callable[[], bool]) -> bool:
    """A cancelled job is shown for some seconds more."""
    deadline = time.monotonic() + 30
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.5)
    return is_true()


@pytest.mark.long
def test_servers_that_are_killed_hang_or_near_their_limit_are_replaced_while_requests_go_on(
    slurm_cluster: SlurmCluster, settings: list[str]
) -> None:
    seen = drive(slurm_cluster, "servers", "servers", settings)
    assert "error" not in seen
    assert seen["first_reason"].startswith("model server: ")
    assert seen["first"]["ready"] == ["r0-0001"]
    assert seen["after_kill"]["ready"] == ["r0-0002"]
    assert seen["hung_is_healthy"], "a hung engine is not seen by /health"
    assert seen["after_hang"]["ready"] == ["r0-0003"]
    assert seen["found_again"]["ready"] == ["r0-0003"], "a new driver uses the server of the one before"
    assert seen["successor_came"]
    assert seen["after_replacing"]["ready"] == ["r0-0004"]
    assert all(seen[when]["tokens"] > 0 for when in ("first", "after_kill", "after_hang", "found_again"))
    assert seen["queue_is_empty"]
    assert seen["nothing_left"]


def test_a_driver_whose_server_waits_in_the_queue_says_why_and_releases_it(
    slurm_cluster: SlurmCluster, settings: list[str]
) -> None:
    later = [*settings, "+llm.job.extra_sbatch.begin=now+1hour"]
    seen = drive(slurm_cluster, "waiting", "limit", later)
    assert "BeginTime" in seen["reason"]
    assert seen["queue_is_empty"]


def test_a_server_that_slurm_refuses_stops_the_driver_with_the_setting_and_what_is_allowed(
    slurm_cluster: SlurmCluster, settings: list[str]
) -> None:
    seen = drive(slurm_cluster, "refused", "limit", [*settings, "llm.job.partition=nowhere"])
    assert "llm.job.partition=nowhere" in seen["error"]
    assert "main" in seen["error"]


def test_missing_weights_are_named_before_anything_is_submitted(
    slurm_cluster: SlurmCluster, settings: list[str]
) -> None:
    seen = drive(slurm_cluster, "weights", "limit", [*settings, "llm.weights=null"])
    assert "arch-search prefetch" in seen["error"]


def test_a_batch_answers_all_requests_that_wait_in_one_job_and_keeps_the_replies(
    slurm_cluster: SlurmCluster, settings: list[str]
) -> None:
    seen = drive(slurm_cluster, "batch", "batch", [*settings, "llm=vllm_batch"])
    assert seen["jobs"] == ["0001"]
    assert seen["kept"] == {"a": True, "b": True, "c": False}  # that c was refused is kept, so it is not asked again
    assert seen["answers"]["c"].startswith("ReplyError: c: the server refuses this request")


def test_a_batch_that_waits_can_be_cancelled_and_is_asked_again_in_a_new_job(
    slurm_cluster: SlurmCluster, settings: list[str]
) -> None:
    later = [*settings, "llm=vllm_batch", "+llm.job.extra_sbatch.begin=now+1hour"]
    seen = drive(slurm_cluster, "cancelled", "cancelled", later)
    assert seen["first"][0] != seen["second"][0]
    assert seen["batches"] == ["0001", "0002"]


def test_ticks_come_back_while_a_batch_is_in_the_queue_and_find_its_replies(
    slurm_cluster: SlurmCluster, settings: list[str]
) -> None:
    seen = drive(slurm_cluster, "ticks", "tick", [*settings, "llm=vllm_batch", "+llm.job.extra_sbatch.begin=now+1hour"])
    assert [said.startswith("batch 1: job ") for said in seen["said"]] == [True, True]
    assert seen["jobs"] == [1, 1]
    assert seen["tokens"] > 0


def test_a_campaign_of_one_generation_runs_with_its_server_as_a_job(
    slurm_cluster: SlurmCluster, settings: list[str]
) -> None:
    cwd = slurm_cluster.make_folder("campaign-with-server")
    run = [
        slurm_cluster.python, "-m", "arch_search.cli", "run", *settings, "slurm=cluster", "slurm.poll_s=1",
        "slurm.max_parallel=2", "slurm.timeout_min=5", "slurm.memory_gb=1", "campaign.generations=1",
        "llm.context_tokens=2048", "llm.request_limit_s=600",
    ]  # fmt: skip
    done = slurm_cluster.run_as_user(run, cwd=cwd, timeout_s=1500, env=POLITE)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder = cwd / "campaigns" / "smoke-001"
    assert read_archive(folder / "archive.h5").candidates
    assert "model server r0-0001: released: nothing is left to ask" in done.stdout
    calls = (folder / "calls.jsonl").read_text()
    assert "smollm2-135m-instruct" in calls
    assert wait_until(lambda: slurm_cluster.run_as_user(["squeue", "--noheader"]).stdout == "")

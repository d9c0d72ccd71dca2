"""`arch-search status` beside a driver whose trainings are job arrays of a real Slurm."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.owner import REPOSITORY
from tests.slurm_cluster.cluster import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
RECORDING = REPOSITORY / "tests/data/recorded_replies.jsonl"
RUN = (
    "run", "campaign=smoke", "slurm=cluster", "slurm.poll_s=2", "slurm.max_parallel=1", "slurm.timeout_min=5",
    "slurm.memory_gb=1", "llm=recorded", f"llm.recording={RECORDING}", "campaign.generations=1", "campaign.dir=c",
    "campaign.baselines=[]", "campaign.reference_seeds=3", "stage.recall.steps=300",
)  # fmt: skip


def test_held_elements_are_shown_with_advice_as_the_driver_saw_them_and_as_slurm_says_now(
    slurm_cluster: SlurmCluster,
) -> None:
    cwd = slurm_cluster.make_folder("status")
    with running(slurm_cluster, cwd):
        seen = wait_for(lambda: status(slurm_cluster, cwd), lambda facts: bool(facts["arrays"]))
        array = seen["arrays"][0]
        assert array["job_id"].isdigit()
        assert array["elements"] == 3
        assert seen["driver"]["running"] is True

        held = slurm_cluster.run_as_user(["scontrol", "hold", f"{array['job_id']}_2"])
        assert held.returncode == 0, held.stderr
        wait_for(
            lambda: status(slurm_cluster, cwd, "--now"), lambda facts: facts["arrays"][0]["states"].get("held") == 1
        )
        later = wait_for(
            lambda: status(slurm_cluster, cwd), lambda facts: facts["arrays"][0]["states"].get("held") == 1
        )
        # the user of the cluster is its administrator as well
        assert any("JobHeldAdmin" in note for note in later["arrays"][0]["notes"])
        shown = slurm_cluster.run_as_user([*cli(slurm_cluster), "status", "c"], cwd=cwd, timeout_s=60).stdout
        assert "held by an administrator" in " ".join(shown.split())
        assert max(map(len, shown.splitlines())) <= 80


@contextmanager
def running(cluster: SlurmCluster, cwd: Path) -> Iterator[None]:
    """A driver beside the test; it and its arrays are ended in the end."""
    driver = subprocess.Popen(
        cluster.user_command([*cli(cluster), *RUN]),
        cwd=cwd,
        env=cluster.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        driver.kill()
        driver.wait()
        cluster.run_as_user(["scancel", "--user", cluster.owner.name])


def status(cluster: SlurmCluster, cwd: Path, *options: str) -> dict[str, Any]:
    done = cluster.run_as_user([*cli(cluster), "status", "c", "--json", *options], cwd=cwd, timeout_s=60)
    facts: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"arrays": [], "why": done.stderr}
    return facts


def cli(cluster: SlurmCluster) -> list[str]:
    return [cluster.python, "-m", "arch_search.cli"]


def wait_for(ask: Callable[[], dict[str, Any]], is_there: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 240
    while not is_there(facts := ask()):
        assert time.monotonic() < deadline, facts
        time.sleep(1)
    return facts

"""The driver as a job of a real Slurm: a chain of jobs that outlives time limits and kills, and that stop ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from arch_search.campaign import open_campaign
from arch_search.integrity import check_campaign
from arch_search.lease import current_holder
from arch_search.paths import CampaignPaths
from tests.owner import REPOSITORY
from tests.slurm_cluster.cluster import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
RECORDING = REPOSITORY / "tests/data/recorded_replies.jsonl"
SMALL = (
    "campaign=smoke", "llm=recorded", f"llm.recording={RECORDING}", "campaign.baselines=[]",
    "campaign.generations=1", "campaign.slots.grammar_edit=0", "campaign.slots.grammar_program=0",
    "campaign.slots.placebo=0", "slurm=cluster", "slurm.poll_s=2", "slurm.estimate_time=false", "slurm.stage_in=false",
    "slurm.timeout_min=5", "slurm.memory_gb=1", "slurm.driver.timeout_min=30", "slurm.driver.memory_gb=1",
    "slurm.lease_s=20",
)  # fmt: skip


class Chain:
    """One campaign whose driver is a job."""

    def __init__(self, cluster: SlurmCluster, name: str) -> None:
        self.cluster = cluster
        self.cwd = cluster.make_folder(name)
        self.paths = CampaignPaths(self.cwd / "c")
        self.words = [*SMALL, f"campaign.dir={self.paths.root}", f"campaign.name={name}"]
        self.name = name

    def arch_search(self, *words: str) -> str:
        command = [self.cluster.python, "-m", "arch_search.cli", *words]
        done = self.cluster.run_as_user(command, cwd=self.cwd, timeout_s=240)
        assert done.returncode == 0, done.stdout + done.stderr + self.output()
        return done.stdout

    def jobs(self) -> dict[str, str]:
        """State of each driver job that Slurm has not finished with, by its id."""
        rows = self.queue().splitlines()
        return {row.split()[0]: row.split()[1] for row in rows if f"{self.name}-driver" in row}

    def queue(self) -> str:
        return self.cluster.run_as_user(["squeue", "-h", "-o", "%A %T %j"]).stdout

    def running(self) -> str | None:
        return next((job_id for job_id, state in self.jobs().items() if state == "RUNNING"), None)

    def driver_pid(self) -> int | None:
        holder = current_holder(self.paths)
        return holder.pid if holder else None

    def output(self) -> str:
        return "".join(file.read_text() for file in sorted(self.paths.driver.glob("jobs/*/*.out")))

    def log(self) -> str:
        return self.paths.driver_log.read_text() if self.paths.driver_log.exists() else ""

    def wait_for(self, happened: Callable[[], object], what: str, limit_s: float = 180) -> None:
        until = time.monotonic() + limit_s
        while not happened():
            assert time.monotonic() < until, f"{what}\n{self.jobs()}\n{self.output()}\n{self.log()}"
            time.sleep(0.2)


@pytest.fixture
def chain(slurm_cluster: SlurmCluster, request: pytest.FixtureRequest) -> Iterator[Chain]:
    yield Chain(slurm_cluster, f"d{abs(hash(request.node.name)) % 10**6}")
    slurm_cluster.run_as_user(["scancel", "--user", slurm_cluster.owner.name])


def test_a_campaign_outlives_the_end_and_the_kill_of_its_driver_jobs(chain: Chain) -> None:
    """Time limit, preemption without requeue, kill of the process: each time the chain goes on; it ends by itself."""
    assert "submitted" in chain.arch_search("submit", *chain.words)
    assert "already" in chain.arch_search("submit", str(chain.paths.root))
    chain.wait_for(lambda: chain.driver_pid() is not None, "no driver")
    first, killed = chain.running(), chain.driver_pid()
    assert first is not None
    assert killed is not None
    assert sorted(chain.jobs().values()) == ["PENDING", "RUNNING"], "the next job waits before it is needed"

    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    chain.wait_for(lambda: chain.driver_pid() not in (None, killed), "the driver was not started again")
    assert time.monotonic() - began < 15, "1 s of pause, start of the program, and a machine that does other things"
    assert chain.running() == first, "in the same job"

    chain.cluster.run_as_user(["scancel", "--signal=USR1", "--batch", first])  # what Slurm sends before the time limit
    chain.wait_for(lambda: first not in chain.jobs(), "the first job did not end")
    assert "stopping: SIGUSR1" in chain.log()
    chain.wait_for(lambda: chain.running() not in (None, first) and chain.driver_pid(), "no second driver")

    second = chain.running()
    assert second is not None
    chain.cluster.run_as_user(["scancel", second])  # as a preemption with CANCEL does
    chain.wait_for(lambda: chain.running() not in (None, second) and chain.driver_pid(), "no third driver")

    chain.wait_for(lambda: (chain.paths.root / "report.html").exists() and not chain.jobs(), "the chain did not end")
    campaign = open_campaign(chain.paths.root)
    assert campaign.is_finished()
    assert all(one.ending == "finished" for one in campaign.contents().evaluations)
    assert check_campaign(campaign) == []
    submissions = [json.loads(file.read_text()) for file in chain.paths.root.glob("gen-*/submission-*.json")]
    assert len(submissions) == 2, "one round for each generation: nothing was submitted twice"


def test_stop_ends_the_driver_job_and_its_successor_and_submit_goes_on(chain: Chain) -> None:
    chain.arch_search("submit", *chain.words, "slurm.extra_sbatch.begin=now+1hour")
    chain.wait_for(lambda: "2 units submitted" in chain.log(), "nothing was submitted")
    assert chain.arch_search("stop", str(chain.paths.root), "--cancel").startswith("stopped")
    chain.wait_for(lambda: not chain.jobs(), "a driver job is left", limit_s=20)
    assert "2 units cancelled" in chain.log()
    assert chain.driver_pid() is None
    chain.wait_for(lambda: f"asx-{chain.name}-g" not in chain.queue(), "an array is left", limit_s=20)
    chain.arch_search("submit", *chain.words)
    chain.wait_for(lambda: list(chain.paths.root.glob("gen-0000/submission-002.json")), "it does not go on")
    chain.arch_search("stop", str(chain.paths.root), "--cancel")
    assert check_campaign(open_campaign(chain.paths.root)) == []


def test_a_driver_job_that_fails_again_and_again_stops_the_campaign(chain: Chain) -> None:
    """Its successors would fill the queue for ever."""
    chain.arch_search("submit", *chain.words, "slurm.poll_s=1")
    chain.wait_for(lambda: chain.driver_pid() is not None, "no driver")
    (chain.paths.root / "journal.jsonl").write_text("damaged\ndamaged\n")
    chain.wait_for(lambda: not chain.jobs(), "the chain goes on", limit_s=90)
    assert "the driver failed 3 times in a row: stopping the campaign" in chain.output()
    assert (chain.paths.driver / "stop.json").exists()

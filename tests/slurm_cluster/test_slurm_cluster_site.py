"""A real Slurm that refuses, in its own words, before anything is lost; and doctor's probe jobs on its nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.owner import REPOSITORY
from tests.slurm_cluster.cluster import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
RECORDING = REPOSITORY / "tests/data/recorded_replies.jsonl"
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
PARTITIONS = {"short": "Nodes=ALL MaxTime=10", "shut": "Nodes=n1 State=DOWN", "theirs": "Nodes=ALL AllowAccounts=other"}

# what is asked for, what is said of it, and what is allowed instead
REFUSED: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"partition": "nope"}, "slurm.partition=nope: invalid partition specified: nope", "main (up to infinite)"),
    ({"partition": "main,nope"}, "slurm.partition=main,nope: ", "short (up to 10:00)"),
    ({"account": "nope"}, "slurm.account=nope: Invalid account or account/partition", "lab"),
    ({"qos": "nope"}, "slurm.qos=nope: Invalid qos specification", "normal"),
    ({"gres": "gpu:a100:1"}, "slurm.gres=gpu:a100:1: Invalid generic resource (gres)", "no gres"),
    ({"gpus_per_task": "1"}, "slurm.gpus_per_task=1: Invalid generic resource (gres)", "no gres"),
    ({"constraint": "fast"}, "slurm.constraint=fast: Invalid feature specification", "none"),
    ({"partition": "short", "timeout_min": 60}, "slurm.timeout_min=60: ", "at most 10 minutes"),
    ({"qos": "small", "timeout_min": 60}, "slurm.timeout_min=60: QOSMaxWall", "maxwall=00:05:00"),
    ({"qos": "small", "cpus_per_task": 2}, "slurm.cpus_per_task=2: QOSMaxCpu", "maxtres=cpu=1"),
    ({"memory_gb": 64.0}, "slurm.memory_gb=64: Requested node configuration", "7.812 GB"),
    ({"cpus_per_task": 64}, "slurm.cpus_per_task=64: Requested node configuration", "4 cores"),
    ({"partition": "theirs", "account": "lab"}, "slurm.account=lab: ", "allows only other"),
    ({"mail_type": "FROB"}, "slurm.mail_type=FROB: Invalid --mail-type", ""),
    ({"extra_sbatch": {"bogus": 1}}, "slurm.extra_sbatch.bogus=1: unrecognized option", ""),
)


@pytest.fixture(scope="module")
def site(slurm_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster with three more partitions and a qos that the user may use only within its limits."""
    for name, shape in PARTITIONS.items():
        _must(slurm_cluster, "scontrol", "create", f"PartitionName={name}", *shape.split())
    limits = ("set", "MaxWall=5", "MaxTRESPerJob=cpu=1", "Flags=DenyOnLimit")
    _must(slurm_cluster, "sacctmgr", "-i", "add", "qos", "small", *limits)
    _must(slurm_cluster, "sacctmgr", "-i", "modify", "user", slurm_cluster.owner.name, "set", "qos+=small")
    yield slurm_cluster
    for name in PARTITIONS:
        _must(slurm_cluster, "scontrol", "delete", f"PartitionName={name}")


def _must(cluster: SlurmCluster, *command: str) -> None:
    done = cluster.run_as_user(command)
    assert done.returncode == 0, done.stderr + done.stdout


def _preflight(site: SlurmCluster, *requests: dict[str, Any]) -> list[str | None]:
    script = REPOSITORY / "tests/slurm_cluster/ask_preflight.py"
    done = site.run_as_user([site.python, str(script), json.dumps(requests)], env=ENVIRONMENT, timeout_s=60)
    assert done.returncode == 0, done.stderr
    answers: list[str | None] = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="module")
def refusals(site: SlurmCluster) -> list[str | None]:
    """What is said about each request of REFUSED."""
    return _preflight(site, *(request for request, _, _ in REFUSED))


@pytest.mark.parametrize("index", range(len(REFUSED)), ids=[words.partition(":")[0] for _, words, _ in REFUSED])
def test_slurm_refuses_in_its_own_words_with_the_setting_and_what_is_allowed(
    refusals: list[str | None], index: int
) -> None:
    line = refusals[index] or ""
    _, words, allowed = REFUSED[index]
    assert words in line
    assert allowed in line
    assert "\n" not in line


def test_what_slurm_would_take_is_not_refused_and_nothing_is_submitted_by_asking(site: SlurmCluster) -> None:
    assert _preflight(site, {}, {"partition": "short,main", "timeout_min": 60}, {"extra_sbatch": {"nice": 5}}) == [
        None,
        None,
        None,
    ]
    assert not site.run_as_user(["squeue", "--noheader", "--name=nothing.sh", "--states=all"]).stdout.strip()


def test_a_campaign_that_slurm_would_refuse_ends_before_a_program_is_written(site: SlurmCluster) -> None:
    cwd = site.make_folder("refused-campaign")
    run = [
        *(site.python, "-m", "arch_search.cli", "run", "campaign=smoke", "slurm=cluster", "slurm.partition=nope"),
        *("llm=recorded", f"llm.recording={RECORDING}"),
    ]
    done = site.run_as_user(run, cwd=cwd, env=ENVIRONMENT, timeout_s=120)
    assert done.returncode == 1
    assert "slurm.partition=nope" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(cwd.rglob("slots")), "no slot was filled"
    assert not list(cwd.rglob("texts")), "the model was not asked"


def test_doctor_reports_each_partition_and_says_which_did_not_start(site: SlurmCluster) -> None:
    cwd = site.make_folder("doctor")
    words = ["slurm=cluster", "slurm.partition=main,shut", "slurm.memory_gb=1", "--wait-s=12"]
    done = site.run_as_user(
        [site.python, "-m", "arch_search.cli", "doctor", *words], cwd=cwd, env=ENVIRONMENT, timeout_s=120
    )
    lines = done.stdout.splitlines()
    good = [line for line in lines if line.startswith("ok  node main")]
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("torch", "jail: ", "disk: ", "files: there and back", "network: "):
        assert any(part in line for line in good), done.stdout
    assert any("shut: " in line and "PartitionDown" in line for line in lines if line.startswith("    "))
    assert any(line.startswith("no  node shut") and "not started within 12 s" in line for line in lines)
    assert not list(cwd.iterdir()), "nothing is left behind"
    waiting = site.run_as_user(["squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%j"]).stdout
    assert "asx-probe" not in waiting


def test_a_node_without_the_environment_is_told_by_what_its_shell_said(site: SlurmCluster) -> None:
    cwd = site.make_folder("broken")
    words = ["slurm=cluster", "slurm.venv=/no/such/environment", "slurm.memory_gb=1", "slurm.partition=main"]
    done = site.run_as_user(
        [site.python, "-m", "arch_search.cli", "doctor", *words], cwd=cwd, env=ENVIRONMENT, timeout_s=120
    )
    assert done.returncode == 1
    assert "/no/such/environment/bin/activate: No such file or directory" in done.stdout

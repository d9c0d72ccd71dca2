"""ClusterLauncher on a real Slurm: arrays, throttle, chunks, crashes around sbatch, lost elements, a silent squeue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.owner import REPOSITORY
from tests.slurm_cluster.cluster import MAX_ARRAY_SIZE, SlurmCluster, remove_stale
from tests.slurm_cluster.configuration import ClusterOptions

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
_SILENT = {
    "error": "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
    "cut": '"$real" "$@" | head -c 20',
}
DRIVE = REPOSITORY / "tests/slurm_cluster/drive.py"


class Driver:
    """One campaign folder, with a space in its path, and the launcher as the user of the cluster would run it."""

    def __init__(self, cluster: SlurmCluster, name: str) -> None:
        self.cluster = cluster
        self.comment = f"asx-{name}"
        self.folder = cluster.make_folder(f"{name} files")

    def command(self, action: str, *options: str) -> list[str]:
        return [self.cluster.python, str(DRIVE), action, str(self.folder), self.comment, *options]

    def __call__(self, action: str, *options: str, env: dict[str, str] | None = None) -> Any:
        done = self.cluster.run_as_user(self.command(action, *options), env=self._env(env), timeout_s=150)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def runs(self) -> list[str]:
        """Names of the units that ran, one entry for each time."""
        return sorted(path.name.split(".")[0] for path in self.folder.glob("*.started.*"))

    def most_at_once(self) -> int:
        """From the two times that each element writes into its log."""
        events = []
        for log in self.folder.glob("u*.log"):
            begin, end = (float(line) for line in log.read_text().split())
            events += [(begin, 1), (end, -1)]
        now = most = 0
        for _, change in sorted(events):
            now += change
            most = max(most, now)
        return most

    def wrapper(self, program: str, text: str) -> dict[str, str]:
        """An environment where `program` is this shell text; $real is the program itself."""
        folder = self.cluster.make_folder(f"{self.comment}-bin-{program}")
        path = folder / program
        path.write_text(f"#!/bin/bash\nreal=/usr/bin/{program}\n{text}\n")
        path.chmod(0o755)
        return {"PATH": f"{folder}:{self.cluster.environment['PATH']}"}

    def _env(self, env: dict[str, str] | None) -> dict[str, str]:
        return {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}


def test_an_array_of_24_elements_runs_to_its_end_within_its_throttle(slurm_cluster: SlurmCluster) -> None:
    drive = Driver(slurm_cluster, "whole")
    submission = drive("submit", "--count", "24", "--max-parallel", "3", "--sleep-s", "0.3")
    answer = drive("wait", "--limit-s", "120")
    assert [array["count"] for array in submission["arrays"]] == [24]
    assert {states[-1] for states in answer["seen"].values()} == {"done"}
    assert drive.runs() == submission["units"]
    assert 2 <= drive.most_at_once() <= 3
    assert {path.read_text() for path in drive.folder.glob("*.done")} == {"it's here\n"}


def test_more_elements_than_the_site_allows_become_several_arrays(slurm_cluster: SlurmCluster) -> None:
    drive = Driver(slurm_cluster, "chunks")
    submission = drive("submit", "--count", "40", "--max-parallel", "4")
    found = drive("find")["found"]
    answer = drive("wait", "--limit-s", "120")
    assert [(a["offset"], a["count"]) for a in submission["arrays"]] == [(0, MAX_ARRAY_SIZE), (32, 8)]
    assert found == submission
    assert {states[-1] for states in answer["seen"].values()} == {"done"}
    assert drive.runs() == submission["units"]
    assert drive.most_at_once() <= 4


def test_a_driver_killed_after_sbatch_finds_its_arrays_and_submits_only_what_lacks(slurm_cluster: SlurmCluster) -> None:
    drive = Driver(slurm_cluster, "crash")
    # the first array is taken by Slurm, then the driver dies before it hears the job id
    text = f'"$real" "$@"; kill -KILL $(pgrep -u $(id -u) -f "{DRIVE.name} submit")'
    count = ["--count", "40", "--sleep-s", "0.2"]
    killed = slurm_cluster.run_as_user(
        drive.command("submit", *count), env=drive._env(drive.wrapper("sbatch", text)), timeout_s=60
    )
    assert killed.returncode == -signal.SIGKILL
    found = drive("find")["found"]
    assert [(array["offset"], array["count"]) for array in found["arrays"]] == [(0, MAX_ARRAY_SIZE)]
    submission = drive("submit", *count)
    assert submission["arrays"][0] == found["arrays"][0]
    assert len(submission["arrays"]) == 2
    answer = drive("wait", "--limit-s", "120")
    assert {states[-1] for states in answer["seen"].values()} == {"done"}
    assert drive.runs() == submission["units"]


def test_a_submission_that_squeue_has_forgotten_is_found_in_the_accounting(slurm_cluster: SlurmCluster) -> None:
    drive = Driver(slurm_cluster, "past")
    submission = drive("submit", "--count", "3")
    drive("wait", "--limit-s", "60")
    forgetful = drive.wrapper("squeue", "exit 0")
    deadline = time.monotonic() + 60
    while (found := drive("find", env=forgetful)["found"]) is None and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found == submission


def test_sbatch_that_fails_after_slurm_took_the_job_does_not_submit_twice(slurm_cluster: SlurmCluster) -> None:
    drive = Driver(slurm_cluster, "liar")
    liar = drive.wrapper("sbatch", '"$real" "$@" >&2; echo "sbatch: error: Socket timed out on send/recv" >&2; exit 1')
    submission = drive("submit", "--count", "3", env=liar)
    answer = drive("wait", "--limit-s", "60")
    assert {states[-1] for states in answer["seen"].values()} == {"done"}
    assert drive.runs() == submission["units"]


def test_a_driver_killed_while_sbatch_works_is_followed_by_one_that_waits_for_it(slurm_cluster: SlurmCluster) -> None:
    drive = Driver(slurm_cluster, "meanwhile")
    begun, allowed = drive.folder / "sbatch.begun", drive.folder / "sbatch.allowed"
    slow = drive.wrapper("sbatch", f'touch "{begun}"; until [ -e "{allowed}" ]; do sleep 0.1; done; exec "$real" "$@"')
    first = subprocess.Popen(
        slurm_cluster.user_command(drive.command("submit", "--count", "5")),
        cwd=slurm_cluster.workdir,
        env={**slurm_cluster.environment, **slow},
    )
    deadline = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    first.kill()
    first.wait()
    assert "earlier driver" in drive("find")["text"]
    allowed.touch()
    answer = drive("run", "--count", "5", "--limit-s", "90")
    assert {states[-1] for states in answer["seen"].values()} == {"done"}
    assert drive.runs() == [f"u{index:03d}" for index in range(5)]


def test_a_refused_submission_is_one_line_with_the_reason(slurm_cluster: SlurmCluster) -> None:
    answer = Driver(slurm_cluster, "refused")("submit", "--constraint", "nothere")
    assert answer["error"] == "SubmitError"
    assert "Invalid feature specification" in answer["text"]
    assert "\n" not in answer["text"]


def test_a_cancelled_element_ends_and_the_others_are_done(slurm_cluster: SlurmCluster) -> None:
    drive = Driver(slurm_cluster, "cancelled")
    job_id = drive("submit", "--count", "6", "--max-parallel", "2", "--sleep-s", "3")["arrays"][0]["job_id"]
    _until_running(slurm_cluster, f"{job_id}_0")
    slurm_cluster.run_as_user(["scancel", f"{job_id}_0", f"{job_id}_5"])  # one that runs, one that waits
    answer = drive("wait", "--limit-s", "90")
    last = {unit: states[-1] for unit, states in answer["seen"].items()}
    assert {unit for unit, state in last.items() if state == "ended"} == {"u000", "u005"}
    assert {state for unit, state in last.items() if unit not in ("u000", "u005")} == {"done"}
    assert answer["notes"]["u000"] == "CANCELLED: was cancelled"


def test_a_requeued_element_goes_on_waiting_and_is_done_in_the_end(slurm_cluster: SlurmCluster) -> None:
    drive = Driver(slurm_cluster, "requeued")
    job_id = drive("submit", "--count", "2", "--sleep-s", "2")["arrays"][0]["job_id"]
    _until_running(slurm_cluster, f"{job_id}_0")
    assert slurm_cluster.run_as_user(["scontrol", "requeue", f"{job_id}_0"]).returncode == 0
    answer = drive("wait", "--limit-s", "120")
    assert "ended" not in answer["seen"]["u000"]
    assert {states[-1] for states in answer["seen"].values()} == {"done"}


def test_a_held_array_says_how_to_let_it_go(slurm_cluster: SlurmCluster) -> None:
    drive = Driver(slurm_cluster, "held")
    # a long element keeps the rest waiting, so that it can be held
    job_id = drive("submit", "--count", "4", "--max-parallel", "1", "--sleep-s", "30")["arrays"][0]["job_id"]
    slurm_cluster.run_as_user(["scontrol", "uhold", job_id])
    answer = drive("wait", "--limit-s", "5")
    drive("cancel")
    assert answer["seen"]["u003"][-1] == "held"
    assert "scontrol release" in answer["notes"]["u003"]


def test_everything_cancelled_comes_to_ended(slurm_cluster: SlurmCluster) -> None:
    drive = Driver(slurm_cluster, "all")
    drive("submit", "--count", "4", "--max-parallel", "2", "--sleep-s", "60")
    drive("cancel")
    answer = drive("wait", "--limit-s", "60")
    assert {states[-1] for states in answer["seen"].values()} == {"ended"}
    assert not list(drive.folder.glob("*.done"))


@pytest.mark.parametrize("how", _SILENT)
def test_a_failing_squeue_makes_units_unknown_and_never_ended(slurm_cluster: SlurmCluster, how: str) -> None:
    drive = Driver(slurm_cluster, f"silent-{how}")
    drive("submit", "--count", "4", "--max-parallel", "1", "--sleep-s", "60")
    answer = drive("wait", "--limit-s", "7", env=drive.wrapper("squeue", _SILENT[how]))
    drive("cancel")
    # the first one runs and says so itself
    waiting = ("u001", "u002", "u003")
    assert [answer["seen"][unit] for unit in waiting] == [["unknown"]] * 3
    assert "ended" not in answer["seen"]["u000"]
    assert answer["notes"]["u001"]


def test_squeue_and_sacct_are_called_at_most_once_per_poll(slurm_cluster: SlurmCluster) -> None:
    drive = Driver(slurm_cluster, "polite")
    drive("submit", "--count", "3", "--sleep-s", "30")
    calls = drive.folder / "calls"
    answer = drive(
        "wait", "--limit-s", "7", "--poll-s", "3", env=drive.wrapper("squeue", f'echo >> "{calls}"; exec "$real" "$@"')
    )
    drive("cancel")
    assert {states[-1] for states in answer["seen"].values()} == {"running"}
    assert 2 <= len(calls.read_text().splitlines()) <= 3


@pytest.fixture(scope="module")
def tight_cluster() -> Iterator[SlurmCluster]:
    """Ten elements an array, twenty in the queue."""
    with SlurmCluster(ClusterOptions(max_array_size=10, max_submit_jobs=20)) as cluster:
        yield cluster


@pytest.mark.parametrize("is_told", [True, False])
def test_units_beyond_the_limits_of_the_site_pass_in_waves(tight_cluster: SlurmCluster, is_told: bool) -> None:
    drive = Driver(tight_cluster, f"waves-{is_told}")
    silent = {} if is_told else drive.wrapper("sacctmgr", "echo 'You are not allowed to ask' >&2; exit 1")
    submission = drive("submit", "--count", "60", "--max-parallel", "0", "--sleep-s", "0.5", env=silent)
    answer = drive("wait", "--limit-s", "140", "--max-parallel", "0", env=silent)
    assert len(submission["arrays"]) > 1
    assert sum(array["count"] for array in submission["arrays"]) < 60
    assert max(array["count"] for array in submission["arrays"]) == 10
    assert {states[-1] for states in answer["seen"].values()} == {"done"}
    assert drive.runs() == submission["units"]


def test_a_job_of_the_user_beside_it_makes_the_queue_smaller_and_nothing_else(tight_cluster: SlurmCluster) -> None:
    drive = Driver(tight_cluster, "beside")
    held = ["sbatch", "--hold", "--wrap", "true"]
    beside = [tight_cluster.run_as_user([*held, *more]).stdout.split()[-1] for more in (["--array=0-9"], [], [])]
    submission = drive("submit", "--count", "15", "--max-parallel", "0", "--sleep-s", "3")
    answer = drive("wait", "--limit-s", "100", "--max-parallel", "0")
    tight_cluster.run_as_user(["scancel", *beside])
    assert [array["count"] for array in submission["arrays"]] == [8]
    assert {states[-1] for states in answer["seen"].values()} == {"done"}


def test_a_cluster_leaves_no_process_and_no_folder_behind() -> None:
    with SlurmCluster() as cluster:
        job = cluster.run_as_user(["sbatch", "--array=0-1", "--wrap", "trap '' TERM; sleep 600 & wait; sleep 600"])
        assert job.returncode == 0
        _until_running(cluster, "1_1")
        during = len(cluster.leftovers())
    assert during > 8
    assert cluster.leftovers() == []
    assert not cluster.folder.exists()


def test_a_cluster_that_can_not_start_says_why_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.slurm_cluster.cluster._SLURMDBD_CONF", "NoSuchKey=1\n")
    cluster = SlurmCluster()
    with pytest.raises(Exception, match="NoSuchKey"):
        cluster.__enter__()
    assert cluster.leftovers() == []
    assert not cluster.folder.exists()


def test_daemons_die_with_a_killed_test_run() -> None:
    code = (
        "from tests.slurm_cluster.cluster import SlurmCluster\n"
        "with SlurmCluster() as c: print(c.folder, flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    folder = child.stdout.readline().strip()
    child.kill()
    child.wait()
    deadline = time.monotonic() + 10
    while (alive := _naming(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive == []
    remove_stale()
    assert not Path(folder).exists()


def _until_running(cluster: SlurmCluster, element: str) -> None:
    deadline = time.monotonic() + 30
    while cluster.run_as_user(["squeue", "-h", "-j", element, "-o", "%T"]).stdout.strip() != "RUNNING":
        assert time.monotonic() < deadline, f"{element} does not run"
        time.sleep(0.2)


def _naming(folder: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if folder.encode() in text and int(entry.name) != os.getpid():
                found.append(entry.name)
    return found

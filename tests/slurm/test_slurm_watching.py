"""ClusterLauncher.states fed with recorded answers of a real squeue and sacct, and with ones that fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm import ArrayJob, ClusterLauncher, Evidence, Resources, Submission, SubmitError, UnitState, WorkUnit
from slurm.client import client_environment, run_client
from slurm.errors import UnavailableError
from slurm.files import Desk

RECORDED = Path(__file__).parent / "recorded"
RESOURCES = Resources(cpus_per_task=1, memory_gb=1, timeout_min=5)
NOTHING: Callable[[str], Evidence] = lambda unit: Evidence(done=False)  # noqa: E731


class Clock:
    """Seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """A PATH whose squeue, sacct and scontrol play recordings, and count how often they were called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "bin"
        self.folder.mkdir()
        self.clock = Clock()
        monkeypatch.setenv("PATH", f"{self.folder}:/usr/bin:/bin")
        self.play("scontrol", "scontrol_config.txt")
        self.play("sacct", "sacct_later.txt")

    def play(self, program: str, recording: str) -> None:
        self.act(program, f"cat '{RECORDED / recording}'")

    def act(self, program: str, text: str) -> None:
        path = self.folder / program
        path.write_text(f'#!/bin/bash\necho >> "{self.folder}/{program}.calls"\n{text}\n')
        path.chmod(0o755)

    def calls(self, program: str) -> int:
        path = self.folder / f"{program}.calls"
        return len(path.read_text()) if path.exists() else 0

    def launcher(self, poll_s: float = 10.0) -> ClusterLauncher:
        return ClusterLauncher(RESOURCES, poll_s=poll_s, clock=self.clock)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def submission(folder: Path, comment: str, *, job_id: str, count: int) -> Submission:
    return Submission(
        kind="cluster", name="asx-test", comment=comment, folder=str(folder), submitted_unix=999_000.0,
        units=tuple(unit.name for unit in units(count)), arrays=(ArrayJob(job_id=job_id, offset=0, count=count),),
    )  # fmt: skip


def units(count: int) -> list[WorkUnit]:
    return [WorkUnit(name=f"u{index:02d}", index=index) for index in range(count)]


def test_each_unit_gets_the_state_of_its_element(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_cancelled.txt")
    one = submission(tmp_path, "asx one", job_id="1", count=31)
    states = site.launcher().states(one, units(31), lambda unit: Evidence(done=unit == "u02"))
    assert states["u01"] is UnitState.RUNNING
    assert states["u02"] is UnitState.DONE
    assert states["u05"] is UnitState.WAITING
    assert states["u00"] is UnitState.RUNNING  # cancelled a moment ago: its result may still come
    assert states["u03"] is UnitState.UNKNOWN  # cancelled while it waited: squeue has dropped it


def test_units_end_after_the_grace_period_with_the_reason(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_later.txt")
    launcher, lost = site.launcher(), submission(tmp_path, "asx eight", job_id="16", count=2)
    launcher.states(lost, units(2), NOTHING)
    site.clock.now += 25
    states = launcher.states(lost, units(2), NOTHING)
    assert set(states.values()) == {UnitState.ENDED}
    assert launcher.notes(lost)["u00"] == "NODE_FAIL: lost its node"


def test_the_grace_period_goes_on_when_the_driver_is_started_anew(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_later.txt")
    lost = submission(tmp_path, "asx eight", job_id="16", count=2)
    site.launcher().states(lost, units(2), NOTHING)
    site.clock.now += 25
    assert set(site.launcher().states(lost, units(2), NOTHING).values()) == {UnitState.ENDED}


def test_a_fresh_heartbeat_keeps_a_unit_that_slurm_has_given_up(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_later.txt")
    launcher, lost = site.launcher(), submission(tmp_path, "asx eight", job_id="16", count=2)
    launcher.states(lost, units(2), NOTHING)
    site.clock.now += 25
    beat = Evidence(done=False, heartbeat_unix=site.clock.now - 3)
    states = launcher.states(lost, units(2), lambda unit: beat if unit == "u00" else Evidence(done=False))
    assert states == {"u00": UnitState.RUNNING, "u01": UnitState.ENDED}


def test_what_squeue_has_forgotten_is_explained_by_sacct(site: Site, tmp_path: Path) -> None:
    site.act("squeue", "true")
    launcher, gone = site.launcher(), submission(tmp_path, "asx six", job_id="11", count=2)
    site.act("sacct", "printf '11_0|TIMEOUT|asx-test-%s-0\\n' " + Desk(tmp_path, "asx six").key)
    launcher.states(gone, units(2), NOTHING)
    site.clock.now += 25
    assert set(launcher.states(gone, units(2), NOTHING).values()) == {UnitState.ENDED}
    assert "raise slurm.timeout_min" in launcher.notes(gone)["u00"]
    assert launcher.notes(gone)["u01"] == "Slurm does not know it any more"


def test_a_job_of_somebody_else_with_our_job_id_is_not_taken_for_ours(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_later.txt")
    ours = submission(tmp_path, "another comment", job_id="1", count=31)
    launcher = site.launcher()
    launcher.states(ours, units(31), NOTHING)
    site.clock.now += 25
    assert set(launcher.states(ours, units(31), NOTHING).values()) == {UnitState.ENDED}


@pytest.mark.parametrize(
    "text", ["exit 1", "echo error >&2", "echo garbage", f"head -c 700 '{RECORDED / 'squeue_later.txt'}'"]
)
def test_an_answer_that_fails_or_is_cut_never_ends_a_unit(site: Site, tmp_path: Path, text: str) -> None:
    site.act("squeue", text)
    launcher, ours = site.launcher(), submission(tmp_path, "asx nine", job_id="99", count=2)
    for _ in range(5):
        assert set(launcher.states(ours, units(2), NOTHING).values()) == {UnitState.UNKNOWN}
        site.clock.now += 1000
    assert len(launcher.notes(ours)) == 2


def test_an_answer_from_before_the_submission_says_nothing_about_it(site: Site, tmp_path: Path) -> None:
    site.act("squeue", "true")
    launcher, early = site.launcher(), submission(tmp_path, "asx one", job_id="1", count=1)
    launcher.states(early, units(1), NOTHING)
    site.clock.now += 5
    fresh = Submission.from_json({**early.to_json(), "comment": "new", "submitted_unix": site.clock.now})
    assert launcher.states(fresh, units(1), NOTHING) == {"u00": UnitState.WAITING}


def test_squeue_is_asked_once_per_poll_however_many_submissions_there_are(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_later.txt")
    launcher = site.launcher(poll_s=60)
    for _ in range(6):
        for job_id in ("1", "16"):
            launcher.states(submission(tmp_path, f"c{job_id}", job_id=job_id, count=2), units(2), NOTHING)
        site.clock.now += 20
    assert site.calls("squeue") == 2


def test_a_failing_squeue_is_asked_more_and_more_seldom_and_a_good_answer_resets_that(
    site: Site, tmp_path: Path
) -> None:
    site.act("squeue", "exit 1")
    launcher, ours = site.launcher(poll_s=1), submission(tmp_path, "asx one", job_id="1", count=2)
    for _ in range(60):
        launcher.states(ours, units(2), NOTHING)
        site.clock.now += 1
    assert site.calls("squeue") == 5  # after 2, 4, 8, 16 and then 32 seconds
    site.play("squeue", "squeue_running.txt")
    site.clock.now += 32
    for _ in range(4):
        assert launcher.states(ours, units(2), NOTHING)["u00"] is UnitState.RUNNING
        site.clock.now += 1
    assert site.calls("squeue") == 9


def test_slurm_is_not_asked_about_units_that_all_have_their_result(site: Site, tmp_path: Path) -> None:
    site.act("squeue", "exit 1")
    ours = submission(tmp_path, "asx one", job_id="1", count=2)
    states = site.launcher().states(ours, units(2), lambda unit: Evidence(done=True))
    assert set(states.values()) == {UnitState.DONE}
    assert site.calls("squeue") == 0


def test_the_users_own_formats_and_filters_do_not_reach_squeue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setenv("SACCT_FORMAT", "jobid")
    monkeypatch.setenv("SLURM_BITSTR_LEN", "64")
    environment = client_environment()
    assert "SQUEUE_FORMAT" not in environment
    assert "SACCT_FORMAT" not in environment
    assert environment["SLURM_BITSTR_LEN"] == "0"


def test_a_client_that_hangs_is_given_up_after_its_limit(site: Site) -> None:
    site.act("squeue", "exec sleep 30")
    with pytest.raises(UnavailableError, match=r"did not answer within 0\.2 s"):
        run_client(["squeue"], limit_s=0.2)


def test_submitting_without_slurm_says_what_is_missing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="scontrol is not on PATH"):
        site.launcher().submit(
            units(1), command=lambda index: ["true"], folder=tmp_path, name="n", comment="c", environment={}
        )


@pytest.mark.parametrize("name, comment", [("two words", "c"), ("n", ""), ("n", "a|b"), ("n", "a\nb")])
def test_names_that_would_break_the_answers_are_refused(site: Site, tmp_path: Path, name: str, comment: str) -> None:
    with pytest.raises(SubmitError):
        site.launcher().submit(
            units(1), command=lambda index: ["true"], folder=tmp_path, name=name, comment=comment, environment={}
        )


def test_options_that_the_launcher_sets_itself_are_refused() -> None:
    with pytest.raises(SubmitError, match="extra_sbatch may not set array, job-name"):
        ClusterLauncher(
            Resources(cpus_per_task=1, memory_gb=1, timeout_min=1, extra_sbatch={"job_name": "x", "array": "0-1"}),
            poll_s=1,
        )


def test_the_batch_script_asks_for_what_the_settings_say(site: Site, tmp_path: Path) -> None:
    site.act("srun", "true")
    site.act("squeue", "true")
    site.act("sbatch", f'cat "${{@: -1}}" > "{tmp_path}/script.sh"; echo Submitted batch job 77')
    asked = Resources(
        cpus_per_task=3, memory_gb=1.5, timeout_min=42, partition="gpu", account="lab", qos="low", constraint="a100",
        gres="gpu:1", setup=("module load cuda",), extra_sbatch={"nice": 5, "mail_user": "a@b.c"},
    )  # fmt: skip
    launcher = ClusterLauncher(asked, poll_s=1, max_parallel=2, clock=site.clock)
    receipt = launcher.submit(
        units(5),
        command=lambda index: ["echo", "two words", str(index)],
        folder=tmp_path / "of 100%",
        name="asx-demo-g1",
        comment="asx uuid g1",
        environment={"OMP_NUM_THREADS": "1", "WORDS": "it's"},
    )
    script = (tmp_path / "script.sh").read_text()
    key = Desk(tmp_path, "asx uuid g1").key
    for line in (
        "--array=0-4%2", "--cpus-per-task=3", "--mem=1536M", "--time=42", "--partition=gpu", "--account=lab",
        "--qos=low", "--constraint=a100", "--gres=gpu:1", "--nice=5", "--mail-user=a@b.c", "--requeue",
        "--open-mode=append", f"--job-name=asx-demo-g1-{key}-0", "--comment='asx uuid g1'",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in script
    assert "wckey" not in script
    assert "srun" not in script
    assert script.index("module load cuda") < script.index("export OMP_NUM_THREADS=1")
    assert "100%%/" in script
    assert [array.job_id for array in receipt.arrays] == ["77"]
    lines = (tmp_path / "of 100%" / key / "0.commands").read_text().splitlines()
    assert lines[3] == f"exec echo 'two words' 3 >> '{tmp_path}/of 100%/u03.log' 2>&1"
    assert json.loads(json.dumps(receipt.to_json()))["arrays"][0]["count"] == 5

"""ClusterLauncher.states fed with recorded answers of a real squeue and sacct, and with ones that fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from arch_search.dispatch import probe_of
from arch_search.generation import shards_of
from arch_search.paths import GenerationPaths
from slurm import ClusterLauncher, Evidence, Order, Resources, Submission, SubmitError, UnitState
from slurm.client import client_environment, run_client
from slurm.errors import UnavailableError
from slurm.files import Desk, write_atomic
from tests.slurm.played_site import NOTHING, RECORDED, Site, submission, units


def order(folder: Path, *, name: str, comment: str) -> Order:
    return Order(
        units=units(1), command=lambda index: ["true"], folder=folder, name=name, comment=comment, environment={}
    )


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
    site.clock.now += 35
    states = launcher.states(lost, units(2), NOTHING)
    assert set(states.values()) == {UnitState.ENDED}
    assert launcher.notes(lost)["u00"] == "NODE_FAIL: lost its node"


def test_the_grace_period_goes_on_when_the_driver_is_started_anew(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_later.txt")
    lost = submission(tmp_path, "asx eight", job_id="16", count=2)
    site.launcher().states(lost, units(2), NOTHING)
    site.clock.now += 35
    assert set(site.launcher().states(lost, units(2), NOTHING).values()) == {UnitState.ENDED}


def test_a_fresh_heartbeat_keeps_a_unit_that_slurm_has_given_up(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_later.txt")
    launcher, lost = site.launcher(), submission(tmp_path, "asx eight", job_id="16", count=2)
    launcher.states(lost, units(2), NOTHING)
    site.clock.now += 35
    beat = Evidence(done=False, heartbeat_unix=site.clock.now - 3)
    states = launcher.states(lost, units(2), lambda unit: beat if unit == "u00" else Evidence(done=False))
    assert states == {"u00": UnitState.RUNNING, "u01": UnitState.ENDED}


def _row(element: str, word: str, reason: str, submitted: Submission) -> str:
    job_id, _, index = element.partition("_")
    name = f"{submitted.name}-{Desk(Path(submitted.folder), submitted.comment).key}-0"
    return f"{job_id}|{index}|{word}|{reason}|{name}|{submitted.comment}|."


def test_elements_whose_launch_failed_are_released_three_times_and_no_others(site: Site, tmp_path: Path) -> None:
    one = submission(tmp_path, "asx one", job_id="7", count=3)
    held = [_row("7_0", "PENDING", "launch failed requeued held", one), _row("7_1", "PENDING", "JobHeldUser", one)]
    foreign = replace(one, comment="somebody else")
    rows = "\n".join([*held, _row("8_0", "PENDING", "launch failed requeued held", foreign)])
    site.act("squeue", f"echo '{rows}'")
    site.act("scontrol", f'[ "$1" = release ] && echo "$2" >> "{tmp_path}/released"')
    launcher = site.launcher()
    for _ in range(5):
        assert launcher.states(one, units(3), NOTHING)["u00"] is UnitState.HELD
        launcher.states(one, units(3), NOTHING)  # the same answer of squeue
        site.clock.now += 35
    assert (tmp_path / "released").read_text().split() == ["7_0"] * 3


def test_what_waits_although_every_unit_is_done_is_taken_out_of_the_queue(site: Site, tmp_path: Path) -> None:
    one = submission(tmp_path, "asx one", job_id="7", count=2)
    site.act("scancel", f'echo "$@" >> "{tmp_path}/cancelled"')
    site.act("squeue", f"echo '{_row('7_0', 'RUNNING', 'None', one)}'")
    launcher = site.launcher()
    assert not launcher.finish(one)
    assert not (tmp_path / "cancelled").exists()
    site.clock.now += 35
    site.act("squeue", f"echo '{_row('7_0', 'PENDING', 'launch failed requeued held', one)}'")
    assert not launcher.finish(one)
    assert (tmp_path / "cancelled").read_text().split() == ["--quiet", "--state=PENDING", "7"]
    site.clock.now += 35
    site.act("squeue", "exit 1")
    assert not launcher.finish(one)  # nobody knows
    site.clock.now += 350
    site.act("squeue", f"echo '{_row('7_0', 'PENDING', 'None', replace(one, comment='somebody else'))}'")
    assert launcher.finish(one)


def test_what_squeue_has_forgotten_is_explained_by_sacct(site: Site, tmp_path: Path) -> None:
    site.act("squeue", "true")
    launcher, gone = site.launcher(), submission(tmp_path, "asx six", job_id="11", count=2)
    site.act("sacct", "printf '11_0|TIMEOUT|asx-test-%s-0\\n' " + Desk(tmp_path, "asx six").key)
    launcher.states(gone, units(2), NOTHING)
    site.clock.now += 35
    assert set(launcher.states(gone, units(2), NOTHING).values()) == {UnitState.ENDED}
    assert "raise slurm.timeout_min" in launcher.notes(gone)["u00"]
    assert launcher.notes(gone)["u01"] == "Slurm does not know it any more"


def test_a_job_of_somebody_else_with_our_job_id_is_not_taken_for_ours(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_later.txt")
    ours = submission(tmp_path, "another comment", job_id="1", count=31)
    launcher = site.launcher()
    launcher.states(ours, units(31), NOTHING)
    site.clock.now += 35
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
        site.launcher().submit(order(tmp_path, name="n", comment="c"))


@pytest.mark.parametrize("name, comment", [("two words", "c"), ("n", ""), ("n", "a|b"), ("n", "a\nb")])
def test_names_that_would_break_the_answers_are_refused(site: Site, tmp_path: Path, name: str, comment: str) -> None:
    with pytest.raises(SubmitError):
        site.launcher().submit(order(tmp_path, name=name, comment=comment))


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
    wanted = replace(
        order(tmp_path / "of 100%", name="asx-demo-g1", comment="asx uuid g1"),
        units=units(5),
        command=lambda index: ["echo", "two words", str(index)],
        environment={"OMP_NUM_THREADS": "1", "WORDS": "it's"},
    )
    receipt = launcher.submit(wanted)
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


def test_memory_is_named_where_only_a_step_in_the_accounting_tells_it(site: Site, tmp_path: Path) -> None:
    failed = submission(tmp_path, "asx ten", job_id="20", count=2)
    name = f"asx-test-{Desk(tmp_path, 'asx ten').key}-0"
    site.act("squeue", f"printf '20|%s|FAILED|NonZeroExitCode|{name}|asx ten|.\\n' 0 1")
    site.act("sacct", f"printf '20_0|FAILED|{name}\\n20_0.0|OUT_OF_MEMORY|bash\\n20_1|FAILED|{name}\\n'")
    launcher = site.launcher()
    launcher.states(failed, units(2), NOTHING)
    site.clock.now += 35
    assert set(launcher.states(failed, units(2), NOTHING).values()) == {UnitState.ENDED}
    assert "raise slurm.memory_gb" in launcher.notes(failed)["u00"]
    assert launcher.notes(failed)["u01"] == "FAILED: ended with an error; its log says more"


def test_a_clock_that_is_set_back_starts_the_grace_period_anew(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_later.txt")
    launcher, lost = site.launcher(), submission(tmp_path, "asx eight", job_id="16", count=2)
    launcher.states(lost, units(2), NOTHING)
    site.clock.now -= 500
    assert set(launcher.states(lost, units(2), NOTHING).values()) == {UnitState.RUNNING}
    site.clock.now += 35
    assert set(launcher.states(lost, units(2), NOTHING).values()) == {UnitState.ENDED}


def test_suspended_units_wait_however_long_and_say_why(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_suspended.txt")
    launcher, nine = site.launcher(), submission(tmp_path, "asx nine", job_id="1", count=3)
    beat = Evidence(done=False, heartbeat_unix=site.clock.now)
    for _ in range(4):
        assert set(launcher.states(nine, units(3), lambda unit: beat).values()) == {UnitState.RUNNING}
        site.clock.now += 1e5
    assert launcher.notes(nine)["u00"].startswith("SUSPENDED: was suspended")


@pytest.mark.parametrize("landing", [(1, 2), (2, 1)])
def test_of_two_attempts_the_newer_shard_counts_in_whatever_order_they_land(
    tmp_path: Path, landing: tuple[int, int]
) -> None:
    paths = GenerationPaths(tmp_path)
    for attempt in landing:
        write_atomic(paths.shard("u00", attempt), b"")
        assert probe_of(paths)("u00").done
    assert shards_of(paths.shards)["u00"] == paths.shard("u00", 2)

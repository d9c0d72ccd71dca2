"""Local and inline launchers with real processes: limits, results, deaths of units and of drivers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm import Evidence, InlineLauncher, LocalLauncher, Order, Submission, SubmitError, UnitState, WorkUnit
from slurm.files import Desk

UNITS = tuple(WorkUnit(name=f"u{index}", index=index) for index in range(4))
REPOSITORY = Path(__file__).resolve().parents[2]
Commands = Callable[[int], list[str]]


def shell(text: str) -> Commands:
    """The same shell text for each unit; $1 is its index."""
    return lambda index: ["bash", "-c", text, "unit", str(index)]


def submit(launcher: LocalLauncher, folder: Path, command: Commands, comment: str = "round 1") -> Submission:
    order = Order(
        units=UNITS, command=command, folder=folder, name="test", comment=comment, environment={"PLACE": str(folder)}
    )
    return launcher.submit(order)


def probe(folder: Path) -> Callable[[str], Evidence]:
    return lambda unit: Evidence(done=(folder / f"{unit}.done").exists())


def until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def settle(launcher: LocalLauncher, submission: Submission, folder: Path) -> dict[str, UnitState]:
    states: dict[str, UnitState] = {}

    def is_settled() -> bool:
        states.update(launcher.states(submission, UNITS, probe(folder)))
        return all(state in (UnitState.DONE, UnitState.ENDED) for state in states.values())

    until(is_settled)
    return states


@pytest.fixture(params=["local", "inline"])
def launcher(request: pytest.FixtureRequest) -> LocalLauncher:
    return LocalLauncher(max_parallel=2) if request.param == "local" else InlineLauncher()


def test_every_unit_runs_once_with_its_environment_and_log(launcher: LocalLauncher, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    command = shell('echo "I am $1"; echo >> "$PLACE/ran"; touch "$PLACE/u$1.done"')
    submission = submit(launcher, folder, command)
    assert set(settle(launcher, submission, folder).values()) == {UnitState.DONE}
    assert (folder / "u2.log").read_text() == "I am 2\n"
    assert len((folder / "ran").read_text().splitlines()) == len(UNITS)


def test_a_unit_without_result_is_ended_and_its_note_names_the_exit_code(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    submission = submit(launcher, tmp_path, shell('[ "$1" = 1 ] && exit 7; touch "$PLACE/u$1.done"'))
    states = settle(launcher, submission, tmp_path)
    assert states["u1"] is UnitState.ENDED
    assert [states[name] for name in ("u0", "u2", "u3")] == [UnitState.DONE] * 3
    assert launcher.notes(submission) == {
        "u1": f"ended with exit code 7 without a result; its log: {tmp_path / 'u1.log'}"
    }


def test_a_unit_killed_by_a_signal_is_ended(launcher: LocalLauncher, tmp_path: Path) -> None:
    submission = submit(launcher, tmp_path, shell('[ "$1" = 2 ] && kill -KILL $$; touch "$PLACE/u$1.done"'))
    assert settle(launcher, submission, tmp_path)["u2"] is UnitState.ENDED
    assert "signal 9" in launcher.notes(submission)["u2"]


def test_submitting_the_same_comment_again_starts_nothing_twice(launcher: LocalLauncher, tmp_path: Path) -> None:
    command = shell('echo >> "$PLACE/ran.$1"; sleep 0.2; touch "$PLACE/u$1.done"')
    first = submit(launcher, tmp_path, command)
    second = submit(type(launcher)(), tmp_path, command)
    settle(launcher, first, tmp_path)
    assert second == first == launcher.find("round 1", folder=tmp_path)
    assert [len((tmp_path / f"ran.{index}").read_text()) for index in range(4)] == [1, 1, 1, 1]


def test_another_comment_is_another_submission(launcher: LocalLauncher, tmp_path: Path) -> None:
    settle(launcher, submit(launcher, tmp_path, shell("exit 1")), tmp_path)
    again = submit(launcher, tmp_path, shell('touch "$PLACE/u$1.done"'), comment="round 2")
    assert set(settle(launcher, again, tmp_path).values()) == {UnitState.DONE}


def test_nothing_is_found_where_nothing_was_submitted(launcher: LocalLauncher, tmp_path: Path) -> None:
    assert launcher.find("round 1", folder=tmp_path) is None


def test_a_receipt_survives_json(launcher: LocalLauncher, tmp_path: Path) -> None:
    submission = submit(launcher, tmp_path, shell("true"))
    assert Submission.from_json(json.loads(json.dumps(submission.to_json()))) == submission


def test_a_command_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match="no-such-program can't be started"):
        submit(LocalLauncher(max_parallel=1), tmp_path, lambda index: ["no-such-program", str(index)])


def test_no_units_are_refused(launcher: LocalLauncher, tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match="no work units"):
        launcher.submit(Order(units=(), command=shell("true"), folder=tmp_path, name="n", comment="c", environment={}))


def test_at_most_so_many_run_at_once_over_all_submissions(tmp_path: Path) -> None:
    launcher = LocalLauncher(max_parallel=2)
    command = shell('echo + >> "$PLACE/log"; sleep 0.2; echo - >> "$PLACE/log"; touch "$PLACE/u$1.done"')
    for comment in ("a", "b"):
        (tmp_path / comment).mkdir()
    submissions = [
        launcher.submit(
            Order(
                units=UNITS, command=command, folder=tmp_path / comment, name="n", comment=comment,
                environment={"PLACE": str(tmp_path)},
            )
        )
        for comment in ("a", "b")
    ]  # fmt: skip
    for submission in submissions:
        settle(launcher, submission, tmp_path)
    running = most = 0
    for word in (tmp_path / "log").read_text().split():
        running += 1 if word == "+" else -1
        most = max(most, running)
    assert most == 2


def test_waiting_units_say_so(tmp_path: Path) -> None:
    launcher = LocalLauncher(max_parallel=1)
    submission = submit(launcher, tmp_path, shell("sleep 30"))
    states = launcher.states(submission, UNITS, probe(tmp_path))
    launcher.cancel(submission)
    assert [states[unit.name] for unit in UNITS] == [UnitState.RUNNING, *[UnitState.WAITING] * 3]


def test_cancel_ends_what_runs_even_if_it_ignores_being_asked_and_starts_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.local._CANCEL_LIMIT_S", 0.5)
    launcher = LocalLauncher(max_parallel=2)
    submission = submit(launcher, tmp_path, shell('trap "" TERM; touch "$PLACE/up$1"; while :; do sleep 0.1; done'))
    until(lambda: (tmp_path / "up1").exists())
    # a driver that did not start them, as after a restart
    LocalLauncher(max_parallel=2).cancel(submission)
    states = launcher.states(submission, UNITS, probe(tmp_path))
    assert set(states.values()) == {UnitState.ENDED}
    assert not (tmp_path / "up2").exists()


def test_a_unit_that_lives_without_the_launcher_is_running_and_not_started_again(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    submission = InlineLauncher().submit(
        Order(units=UNITS[:1], command=shell("exit 1"), folder=tmp_path, name="n", comment="c", environment={})
    )
    states = launcher.states(submission, UNITS[:1], lambda unit: Evidence(done=False, running=True))
    assert states == {"u0": UnitState.RUNNING}
    assert not (tmp_path / "u0.log").exists()


_DRIVER = """
import sys, time
from pathlib import Path
from slurm import Evidence, InlineLauncher, LocalLauncher, Order, WorkUnit
folder = Path(sys.argv[2])
launcher = InlineLauncher() if sys.argv[1] == "inline" else LocalLauncher(max_parallel=2)
units = tuple(WorkUnit(name=f"u{i}", index=i) for i in range(4))
text = 'echo $$ > "$0/pid$1"; echo >> "$0/ran$1"; sleep "$2"; touch "$0/u$1.done"'
order = Order(units=units, command=lambda i: ["bash", "-c", text, str(folder), str(i), sys.argv[3]],
              folder=folder, name="n", comment="c", environment={})
submission = launcher.submit(order)
while True:
    states = launcher.states(submission, units, lambda u: Evidence(done=(folder / f"{u}.done").exists()))
    if all(state.value in ("done", "ended") for state in states.values()):
        break
    time.sleep(0.02)
print(sorted({state.value for state in states.values()}))
"""


def _driver(kind: str, folder: Path, sleep_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _DRIVER, kind, str(folder), str(sleep_s)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _pid(path: Path) -> int:
    until(lambda: path.exists() and bool(path.read_text().strip()))
    return int(path.read_text())


def test_inline_units_die_with_a_killed_driver_and_run_again_under_the_next_one(tmp_path: Path) -> None:
    first = _driver("inline", tmp_path, 0.5)
    pid = _pid(tmp_path / "pid0")
    first.kill()
    first.wait()
    until(lambda: not _lives(pid))
    second = _driver("inline", tmp_path, 0)
    assert second.communicate(timeout=30)[0].strip() == "['done']"
    assert [len((tmp_path / f"ran{index}").read_text()) for index in range(4)] == [2, 1, 1, 1]


def test_an_interrupted_inline_driver_takes_its_unit_with_it(tmp_path: Path) -> None:
    driver = _driver("inline", tmp_path, 30)
    pid = _pid(tmp_path / "pid0")
    driver.send_signal(signal.SIGINT)
    driver.wait(timeout=20)
    until(lambda: not _lives(pid))


def test_local_units_outlive_a_killed_driver_and_the_next_one_goes_on_with_the_queue(tmp_path: Path) -> None:
    first = _driver("local", tmp_path, 1)
    pids = [_pid(tmp_path / f"pid{index}") for index in range(2)]
    first.kill()
    first.wait()
    assert all(_lives(pid) for pid in pids)
    second = _driver("local", tmp_path, 1)
    assert second.communicate(timeout=30)[0].strip() == "['done']"
    assert [len((tmp_path / f"ran{index}").read_text()) for index in range(4)] == [1, 1, 1, 1]


def test_a_driver_killed_between_start_and_note_neither_loses_nor_doubles_a_living_unit(tmp_path: Path) -> None:
    launcher = LocalLauncher(max_parallel=4)
    submission = submit(launcher, tmp_path, shell('echo >> "$PLACE/ran$1"; sleep 1; touch "$PLACE/u$1.done"'))
    Desk(tmp_path, "round 1").started("u1").unlink()  # as if the driver had not come so far
    later = LocalLauncher(max_parallel=4)
    assert later.states(submission, UNITS, probe(tmp_path))["u1"] is UnitState.RUNNING
    assert set(settle(later, submission, tmp_path).values()) == {UnitState.DONE}
    assert len((tmp_path / "ran1").read_text()) == 1


def test_a_reused_process_id_does_not_look_like_a_running_unit(tmp_path: Path) -> None:
    launcher = LocalLauncher(max_parallel=4)
    submission = submit(launcher, tmp_path, shell("exit 1"))
    settle(launcher, submission, tmp_path)
    note = Desk(tmp_path, "round 1").started("u1")
    note.write_text(json.dumps({"pid": os.getpid(), "unix": 0}))
    assert LocalLauncher().states(submission, UNITS, probe(tmp_path))["u1"] is UnitState.ENDED


def test_a_damaged_plan_is_one_clear_line(launcher: LocalLauncher, tmp_path: Path) -> None:
    submit(launcher, tmp_path, shell("true"))
    plan = Desk(tmp_path, "round 1").root / "plan.json"
    plan.write_text(plan.read_text()[:20])
    with pytest.raises(Exception, match=r"plan.json: not the plan of a submission"):
        launcher.find("round 1", folder=tmp_path)

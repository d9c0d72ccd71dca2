"""Where a driver runs and how it ends: in the foreground, from cron, asked by a signal or by `arch-search stop`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import RECORDING, arch_search, descendants, start

from arch_search.campaign import Campaign, open_campaign, start_or_continue
from arch_search.driver import Driver
from arch_search.integrity import check_campaign
from arch_search.lease import current_holder, driver_lease
from arch_search.paths import CampaignPaths
from arch_search.settings import load_config
from arch_search.stopping import StopWatch

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("driver_placement")]  # what its tests share takes long to make
RESTART_S = 10.0
WITHIN_S = 120.0
SMALL = (
    "campaign=smoke", "llm=recorded", f"llm.recording={RECORDING}", "campaign.dir=c", "campaign.baselines=[]",
    "campaign.generations=1", "campaign.slots.grammar_edit=0", "campaign.slots.grammar_program=0",
    "campaign.slots.placebo=0", "campaign.attempts_per_task=1", "slurm.poll_s=0.5", "slurm.max_parallel=1",
)  # fmt: skip

Begin = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def proposed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign whose reference is admitted: the next that a driver does is to train it."""
    folder = tmp_path_factory.mktemp("proposed") / "c"
    campaign = _create(folder)
    with driver_lease(campaign.paths, lease_s=60) as lease, StopWatch(campaign.paths) as watch:
        Driver(campaign, lambda event: None, lease=lease, watch=watch).tick()
    campaign.journal.close()
    return folder


@pytest.fixture
def cwd(proposed: Path, tmp_path: Path) -> Path:
    """A folder with a copy of that campaign in `c`."""
    shutil.copytree(proposed, tmp_path / "c")
    return tmp_path


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Begin]:
    """`driver(overrides)` starts `arch-search run` of the campaign in tmp_path/c; all are killed in the end."""
    started: list[subprocess.Popen[str]] = []

    def begin(*overrides: str) -> subprocess.Popen[str]:
        started.append(start("run", *SMALL, *overrides, cwd=tmp_path))
        return started[-1]

    yield begin
    for one in started:
        for pid in [*descendants(one.pid), one.pid]:
            if one.poll() is None:
                os.kill(pid, signal.SIGKILL)
        one.wait()


def _wait_for(happened: Callable[[], object], what: str) -> None:
    until = time.monotonic() + WITHIN_S
    while not happened():
        assert time.monotonic() < until, what
        time.sleep(0.05)


def _log(cwd: Path) -> str:
    log = cwd / "c" / "logs" / "driver.log"
    return log.read_text() if log.exists() else ""


def _trains(cwd: Path) -> bool:
    return any((cwd / "c").glob("gen-0000/units/*/heartbeat.json"))


def _fsck(cwd: Path) -> None:
    assert check_campaign(open_campaign(cwd / "c")) == []


def _holder_pid(cwd: Path) -> int | None:
    holder = current_holder(CampaignPaths(cwd / "c"))
    return holder.pid if holder else None


@pytest.mark.parametrize(
    "launcher, number, code",
    [
        ("local", signal.SIGINT, 130),
        ("local", signal.SIGTERM, 0),
        ("local", signal.SIGUSR1, 0),
        ("local", signal.SIGHUP, 0),
        ("inline", signal.SIGTERM, 0),  # comes while the driver waits for a training, far from any poll
    ],
)
def test_a_signal_ends_the_driver_in_seconds_with_one_line_on_how_to_go_on(
    cwd: Path, driver: Begin, launcher: str, number: signal.Signals, code: int
) -> None:
    one = driver(f"slurm={launcher}", "slurm.poll_s=60")
    _wait_for(lambda: _trains(cwd), "nothing was trained")
    began = time.monotonic()
    one.send_signal(number)
    assert one.wait(timeout=30) == code
    assert time.monotonic() - began < 15
    output = (cwd / "out.txt").read_text()
    assert "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith("stopped; go on with the same command, or: arch-search run")
    assert _holder_pid(cwd) is None
    _fsck(cwd)


def test_stop_ends_the_driver_and_run_goes_on_to_the_end(cwd: Path, driver: Begin) -> None:
    one = driver("slurm=local", "slurm.poll_s=60")
    _wait_for(lambda: _trains(cwd), "nothing was trained")
    stopped = arch_search("stop", "c", cwd=cwd)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert one.wait(timeout=10) == 0
    ticked = arch_search("tick", "c", cwd=cwd)
    assert (ticked.returncode, ticked.stderr) == (0, "")
    assert ticked.stdout.startswith("stopped by request")
    again = arch_search("run", *SMALL, "slurm=local", cwd=cwd)
    assert again.returncode == 0, again.stdout + again.stderr
    assert open_campaign(cwd / "c").is_finished()
    assert all(one.ending == "finished" for one in open_campaign(cwd / "c").contents().evaluations)
    _fsck(cwd)


def test_without_cancel_what_trains_comes_to_its_end_after_the_driver(cwd: Path, driver: Begin) -> None:
    one = driver("slurm=local", "slurm.max_parallel=2")
    _wait_for(lambda: _trains(cwd), "nothing was trained")
    assert arch_search("stop", "c", cwd=cwd).returncode == 0
    one.wait(timeout=10)
    _wait_for(lambda: list((cwd / "c").glob("gen-0000/shards/*.h5")), "the training did not go on")


def test_with_cancel_what_trains_is_ended_and_that_uses_up_no_attempt(cwd: Path, driver: Begin) -> None:
    one = driver("slurm=local")
    _wait_for(lambda: _trains(cwd), "nothing was trained")
    stopped = arch_search("stop", "c", "--cancel", cwd=cwd)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    one.wait(timeout=10)
    assert "units cancelled" in _log(cwd)
    assert not any(str(cwd) in words for words in _command_lines()), "a training goes on"
    again = arch_search("run", *SMALL, "slurm=local", cwd=cwd)
    assert again.returncode == 0, again.stdout + again.stderr
    assert all(one.ending == "finished" for one in open_campaign(cwd / "c").contents().evaluations)


def _command_lines() -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "arch_search.worker" in words:
            found.append(words)
    return found


def test_stop_of_a_campaign_that_nobody_drives_stops_the_ticks_of_cron(cwd: Path) -> None:
    stopped = arch_search("stop", "c", cwd=cwd)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert arch_search("tick", "c", cwd=cwd).stdout.startswith("stopped by request")


def test_after_sigkill_the_next_run_is_at_work_within_ten_seconds(cwd: Path, driver: Begin) -> None:
    """In CPU time, which other work on the machine does not stretch; test_lease holds that nothing is waited for."""
    first = driver("slurm=local")
    _wait_for(lambda: _trains(cwd), "nothing was trained")
    first.kill()
    first.wait()
    shown = len(_log(cwd))
    second = driver("slurm=local")
    _wait_for(lambda: _holder_pid(cwd) == second.pid and len(_log(cwd)) > shown, "it does nothing")
    fields = Path(f"/proc/{second.pid}/stat").read_text().rpartition(")")[2].split()
    assert (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") < RESTART_S


def test_of_two_runs_of_a_new_campaign_started_together_one_is_refused(tmp_path: Path, driver: Begin) -> None:
    one, two = driver("slurm=inline"), driver("slurm=inline")
    _wait_for(lambda: one.poll() is not None or two.poll() is not None, "both drive")
    loser, winner = (one, two) if one.poll() is not None else (two, one)
    assert loser.poll() == 1
    assert "another driver is running this campaign" in (tmp_path / "out.txt").read_text()
    _wait_for(lambda: "slot 0" in _log(tmp_path), "nobody drives")
    assert winner.poll() is None


def test_a_driver_that_slept_while_another_took_over_ends_and_changes_nothing(cwd: Path, driver: Begin) -> None:
    sleeper = driver("slurm=local", "slurm.lease_s=2")
    _wait_for(lambda: _trains(cwd), "nothing was trained")
    sleeper.send_signal(signal.SIGSTOP)
    time.sleep(3)
    awake = driver("slurm=local", "slurm.lease_s=60")
    _wait_for(lambda: _holder_pid(cwd) == awake.pid, "the campaign was not taken over")
    sleeper.send_signal(signal.SIGCONT)
    assert sleeper.wait(timeout=30) == 1
    output = (cwd / "out.txt").read_text()
    assert re.search(r"another driver has taken this campaign over \(pid \d+ on ", output)
    assert "Traceback" not in output
    assert awake.wait(timeout=300) == 0, output
    _fsck(cwd)


def test_a_tick_returns_while_trainings_run_and_a_second_one_leaves_it_alone(cwd: Path) -> None:
    first = start("tick", "c", cwd=cwd)
    _wait_for(lambda: _holder_pid(cwd) == first.pid, "the tick does nothing")
    second = arch_search("tick", "c", cwd=cwd)
    assert (second.returncode, second.stderr) == (0, "")
    assert "another driver is running this campaign" in second.stdout
    assert first.wait(timeout=WITHIN_S) == 0
    assert re.fullmatch(r"generation [01] trains", (cwd / "out.txt").read_text().strip().splitlines()[-1])
    for _ in range(60):
        ticked = arch_search("tick", "c", cwd=cwd)
        assert ticked.returncode == 0, ticked.stdout + ticked.stderr
        if ticked.stdout.strip().endswith("finished"):
            break
        time.sleep(1)
    assert open_campaign(cwd / "c").is_finished()


def test_a_tick_whose_time_is_over_returns_and_the_next_goes_on(cwd: Path) -> None:
    cut = arch_search("tick", "c", "--limit-min=0.001", cwd=cwd)
    assert cut.returncode == 0, cut.stdout + cut.stderr
    assert "the time of this tick is over; the next tick goes on" in cut.stdout
    assert _holder_pid(cwd) is None


def _create(folder: Path) -> Campaign:
    config = load_config([*SMALL, "slurm=local", f"campaign.dir={folder}"])
    return start_or_continue(config, command=["arch-search", "run"], base=folder.parent)

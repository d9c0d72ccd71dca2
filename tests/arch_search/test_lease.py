"""Who drives a campaign: one driver, whatever dies, sleeps or runs elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from arch_search import lease as lease_module
from arch_search.errors import LeaseHeldError, LeaseLostError
from arch_search.lease import Machine, current_holder, driver_lease
from arch_search.paths import CampaignPaths
from cognition_db.experience.errors import StoreError
from cognition_db.experience.journal import Journal, read

RACES = 50
RACERS = 4
ELSEWHERE = Machine(id="another boot/pid:[1]", host="node17")

# waits for the file `go`, takes the lease, says so, and holds it until the file `over` is there
_HOLD = """
import sys, time
from dataclasses import replace
from pathlib import Path
from arch_search.errors import LeaseHeldError
from arch_search.lease import Machine, driver_lease
from arch_search.paths import CampaignPaths
root, lease_s, host = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
here = Machine.here()
machine = here if host == "here" else replace(here, id=host, host=host)
print("ready", flush=True)
for round in sys.stdin:
    paths = CampaignPaths(root / round.strip())
    try:
        with driver_lease(paths, lease_s=lease_s, say=lambda words: None, machine=machine) as lease:
            print("won", flush=True)
            sys.stdin.readline()
            lease.require()
            print("still held", flush=True)
    except LeaseHeldError as error:
        print(f"refused {error}", flush=True)
        sys.stdin.readline()
    except Exception as error:
        print(f"{type(error).__name__} {error}", flush=True)
"""


class Other:
    """Another driver, in a process of its own."""

    def __init__(self, root: Path, *, lease_s: float = 60, host: str = "here") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(root), str(lease_s), host],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.answer() == "ready"

    def tell(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.communicate()


StartOther = Callable[..., Other]


@pytest.fixture
def other(tmp_path: Path) -> Iterator[StartOther]:
    """`other(lease_s=, host=)` starts another driver of tmp_path/c; all are killed in the end."""
    started: list[Other] = []

    def start(lease_s: float = 60, host: str = "here") -> Other:
        started.append(Other(tmp_path, lease_s=lease_s, host=host))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def paths(tmp_path: Path) -> CampaignPaths:
    return CampaignPaths(tmp_path / "c")


def _held(other: StartOther, **kind: object) -> Other:
    driver = other(**kind)
    driver.tell("c")
    assert driver.answer() == "won"
    return driver


def test_a_second_driver_is_refused_at_once_in_one_line_that_names_the_holder_and_the_age(
    paths: CampaignPaths, other: StartOther
) -> None:
    driver = _held(other)
    began = time.monotonic()
    with pytest.raises(LeaseHeldError) as refused, driver_lease(paths, lease_s=60):
        pass
    assert time.monotonic() - began < 1
    words = str(refused.value)
    assert f"pid {driver.process.pid} on {os.uname().nodename}" in words
    assert "renewed 0 s ago" in words or "renewed 1 s ago" in words
    assert "\n" not in words


def test_a_killed_driver_of_this_host_is_replaced_at_once(paths: CampaignPaths, other: StartOther) -> None:
    _held(other).kill()
    began = time.monotonic()
    with driver_lease(paths, lease_s=60):
        assert time.monotonic() - began < 1


def test_a_driver_that_waits_to_be_reaped_is_dead(paths: CampaignPaths, other: StartOther) -> None:
    driver = _held(other)
    os.kill(driver.process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, driver.process.pid, os.WEXITED | os.WNOWAIT)
    with driver_lease(paths, lease_s=60):
        pass


def test_a_pid_that_was_given_to_somebody_else_does_not_hold_a_campaign(paths: CampaignPaths) -> None:
    with driver_lease(paths, lease_s=60) as held:
        stranger = replace(held.holder, start_ticks=held.holder.start_ticks - 1)
        assert lease_module.is_dead(held.holder, Machine.here()) is False
        assert lease_module.is_dead(stranger, Machine.here()) is True


def test_a_driver_that_ends_gives_the_campaign_up_for_every_host(paths: CampaignPaths) -> None:
    with driver_lease(paths, lease_s=60):
        pass
    assert current_holder(paths) is None
    began = time.monotonic()
    with driver_lease(paths, lease_s=60, machine=ELSEWHERE):
        assert time.monotonic() - began < 1


def test_a_driver_of_another_host_is_refused_as_soon_as_the_holder_renews(
    paths: CampaignPaths, other: StartOther
) -> None:
    _held(other, lease_s=4)
    said: list[str] = []
    began = time.monotonic()
    with (
        pytest.raises(LeaseHeldError),
        driver_lease(paths, lease_s=4, machine=ELSEWHERE, say=said.append),
    ):
        pass
    assert time.monotonic() - began < 3, "a quarter of lease_s and a look"
    assert len(said) == 1


def test_a_driver_that_died_on_another_host_is_replaced_after_its_own_lease_s(
    paths: CampaignPaths, other: StartOther
) -> None:
    _held(other, lease_s=3, host="node3").kill()
    began = time.monotonic()
    with driver_lease(paths, lease_s=1000, say=lambda words: None):
        assert 3 <= time.monotonic() - began < 5


def test_clocks_of_two_hosts_are_never_compared(paths: CampaignPaths, other: StartOther) -> None:
    """A lease that was renewed in 1970, or next year, by its host's clock is alive while it changes."""
    with driver_lease(paths, lease_s=2) as held:
        for unix in (0.0, time.time() + 3e7):
            held.holder = replace(held.holder, renewed_unix=unix, renewed_uptime_s=unix)
            held._write(held.holder)
            with (
                pytest.raises(LeaseHeldError),
                driver_lease(paths, lease_s=2, machine=ELSEWHERE, say=lambda words: None),
            ):
                pass


def test_a_driver_that_hangs_renews_all_the_same(paths: CampaignPaths) -> None:
    """Waiting for a model is no reason to lose a campaign."""
    with driver_lease(paths, lease_s=1) as held:
        time.sleep(3)
        assert lease_module.is_dead(held.holder, Machine.here()) is False
        held.require()


def test_a_suspended_driver_is_replaced_and_stops_when_it_goes_on(paths: CampaignPaths, other: StartOther) -> None:
    driver = _held(other, lease_s=1)
    driver.process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    with driver_lease(paths, lease_s=60) as mine:
        driver.process.send_signal(signal.SIGCONT)
        driver.tell("over")
        answer = driver.answer()
        mine.require()
    assert answer.startswith("LeaseLostError")
    assert f"pid {os.getpid()}" in answer


def test_what_a_replaced_driver_still_acknowledges_reaches_nobody(paths: CampaignPaths) -> None:
    paths.root.mkdir()
    old = Journal(paths.journal)
    old.append("try", {"slot": 1})
    with driver_lease(paths, lease_s=0.5, machine=ELSEWHERE) as lost:
        lost._over.set()  # it renews no more
        with driver_lease(paths, lease_s=60, say=lambda words: None):
            old.append("try", {"slot": 2})
            with Journal(paths.journal) as new:
                new.append("try", {"slot": 3})
            old.append("try", {"slot": 4})
            assert [entry.data["slot"] for entry in read(paths.journal).entries] == [1, 3]
            with pytest.raises(LeaseLostError):
                lost.require()


def test_a_driver_that_can_not_renew_in_time_does_not_go_on(
    paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with driver_lease(paths, lease_s=2) as held:
        monkeypatch.setattr(held, "_write", _full_disk)
        held.require()
        time.sleep(1.5)
        with pytest.raises(StoreError, match="room"):
            held.require()


def _full_disk(holder: object) -> None:
    raise StoreError("no space left; make room")


def test_the_check_before_each_acknowledgement_is_cheap(paths: CampaignPaths) -> None:
    with driver_lease(paths, lease_s=60) as held:
        began = time.process_time()
        for _ in range(1000):
            held.require()
        assert time.process_time() - began < 0.5, "half a millisecond each; measured: 0.02 ms"


def test_only_the_newest_lease_is_kept(paths: CampaignPaths) -> None:
    for _ in range(5):
        with driver_lease(paths, lease_s=60):
            pass
    assert [path.name for path in paths.driver.iterdir()] == ["lease-00000005.json"]


def test_a_number_used_and_removed_long_ago_is_not_won_again(paths: CampaignPaths) -> None:
    for _ in range(3):
        with driver_lease(paths, lease_s=60):
            pass
    holder = lease_module._new_holder(Machine.here(), 60)
    assert lease_module._claim(paths.driver, 2, holder) is False
    assert [path.name for path in paths.driver.iterdir()] == ["lease-00000003.json"]


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "released", "dead here", "expired elsewhere"])
def test_of_drivers_that_start_together_one_wins(tmp_path: Path, before: str) -> None:
    """Also where each of them finds the same lease to be replaced."""
    racers = [Other(tmp_path) for _ in range(RACERS)]
    try:
        for number in range(RACES):
            _leave_behind(CampaignPaths(tmp_path / str(number)), before)
            for racer in racers:
                racer.tell(str(number))
            answers = [racer.answer() for racer in racers]
            assert sum(answer == "won" for answer in answers) == 1, answers
            assert sum(answer.startswith("refused") for answer in answers) == RACERS - 1, answers
            for racer in racers:
                racer.tell("over")
            winner = racers[answers.index("won")]
            assert winner.answer() == "still held"
    finally:
        for racer in racers:
            racer.kill()


def _leave_behind(paths: CampaignPaths, before: str) -> None:
    if before == "nothing":
        return
    machine = Machine.here() if before != "expired elsewhere" else ELSEWHERE
    with driver_lease(paths, lease_s=0.1, machine=machine) as held:
        if before != "released":
            held._over.set()
            held._write(replace(held.holder, start_ticks=0))

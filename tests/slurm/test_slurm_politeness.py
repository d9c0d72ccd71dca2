"""How often squeue and sacct are asked: by drivers, by ticks that live for a moment, after kills and failures."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from arch_search.errors import ConfigError
from arch_search.launching import queue_poll_s
from arch_search.settings import load_config
from slurm import ClusterLauncher, UnitState
from slurm.client import SlurmClient, least_poll_s
from slurm.errors import UnavailableError
from slurm.ledger import Ledger
from tests.slurm.played_site import NOTHING, RESOURCES, Site, submission, units

REPOSITORY = Path(__file__).parents[2]


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
    assert site.calls("squeue") == 5  # after 2, 4, 8, 16 and then 32 seconds, and up to a quarter more
    site.play("squeue", "squeue_running.txt")
    site.clock.now += 40
    for _ in range(4):
        assert launcher.states(ours, units(2), NOTHING)["u00"] is UnitState.RUNNING
        site.clock.now += 1
    assert site.calls("squeue") == 9


def client(site: Site, folder: Path | None, *, poll_s: float = 60.0) -> SlurmClient:
    return SlurmClient(poll_s=poll_s, clock=site.clock, folder=folder, rng=Random(1))


def test_ticks_that_live_for_a_moment_share_the_answers_and_ask_no_more_often(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_cancelled.txt")
    one = submission(tmp_path, "asx one", job_id="1", count=31)
    for _ in range(8):
        tick = ClusterLauncher(RESOURCES, poll_s=60, ledger=tmp_path / "ledger", clock=site.clock)
        assert tick.states(one, units(31), NOTHING)["u05"] is UnitState.WAITING
        site.clock.now += 20
    assert site.calls("squeue") == 3


def test_a_driver_that_dies_in_a_call_has_asked_all_the_same(site: Site, tmp_path: Path) -> None:
    site.act("squeue", "kill -KILL $PPID")
    program = (
        "import sys, time; from pathlib import Path; from slurm.client import SlurmClient; "
        "SlurmClient(poll_s=60, clock=lambda: 1_000_000.0, folder=Path(sys.argv[1])).queue()"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "ledger")], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL
    look = client(site, tmp_path / "ledger").queue()
    assert site.calls("squeue") == 1
    assert look.problem == "squeue was asked by another program of this campaign and has not answered yet"
    site.clock.now += 60
    site.play("squeue", "squeue_running.txt")
    assert client(site, tmp_path / "ledger").queue().answer.whole


def test_a_second_program_gets_the_older_answer_while_the_first_one_asks(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_running.txt")
    status = client(site, tmp_path / "ledger")
    before = status.queue()
    site.clock.now += 100
    with Ledger(tmp_path / "ledger").turn("squeue", wait_s=0) as is_ours:
        assert is_ours
        assert status.queue() == before
    assert site.calls("squeue") == 1
    assert status.queue().taken_unix == site.clock.now


def test_after_a_failure_even_an_urgent_question_waits(site: Site, tmp_path: Path) -> None:
    site.act("squeue", "exit 1")
    for _ in range(5):
        with pytest.raises(UnavailableError, match="exit code 1"):
            client(site, tmp_path / "ledger").queue_now()
        site.clock.now += 10
    assert site.calls("squeue") == 1
    site.play("squeue", "squeue_running.txt")
    site.clock.now += 120
    for _ in range(2):
        assert client(site, tmp_path / "ledger").queue_now().taken_unix == site.clock.now
    assert site.calls("squeue") == 3


def test_pauses_after_failures_are_spread_by_chance(site: Site) -> None:
    site.act("squeue", "exit 1")
    first_calls = set()
    for seed in range(5):
        asks = SlurmClient(poll_s=60, clock=site.clock, rng=Random(seed))
        asks.queue()
        begin, calls = site.clock.now, site.calls("squeue")
        while site.calls("squeue") == calls:
            site.clock.now += 1
            asks.queue()
        first_calls.add(site.clock.now - begin)
    assert all(120 <= pause_s <= 150 for pause_s in first_calls)
    assert len(first_calls) > 2


@pytest.mark.parametrize("damage", ["", "{", '{"asked_unix": 1}', "[]", "\x00\xff"])
def test_a_damaged_ledger_costs_one_call_and_nothing_else(site: Site, tmp_path: Path, damage: str) -> None:
    site.play("squeue", "squeue_running.txt")
    folder = tmp_path / "ledger"
    client(site, folder).queue()
    for name in ("squeue.call", "squeue.reply"):
        (folder / name).write_text(damage)
    assert client(site, folder).queue().answer.whole
    assert site.calls("squeue") == 2


def test_a_ledger_that_can_not_be_written_costs_the_sharing_only(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_running.txt")
    (tmp_path / "ledger").write_text("a file in the place of the folder")
    asks = client(site, tmp_path / "ledger")
    for _ in range(3):
        assert asks.queue().answer.whole
    assert site.calls("squeue") == 1


def test_an_answer_never_gives_way_to_an_older_one(site: Site, tmp_path: Path) -> None:
    site.play("squeue", "squeue_running.txt")
    asks = client(site, tmp_path / "ledger")
    asks.queue()
    kept = (tmp_path / "ledger" / "squeue.reply").read_bytes()
    site.clock.now += 60
    asks.queue()
    (tmp_path / "ledger" / "squeue.reply").write_bytes(kept)
    assert asks.queue().taken_unix == site.clock.now


def test_the_shortest_time_between_questions_is_30_s_unless_the_environment_lowers_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ARCH_SEARCH_POLL_LEAST_S", raising=False)
    assert least_poll_s() == 30
    monkeypatch.setenv("ARCH_SEARCH_POLL_LEAST_S", "0.5")
    assert least_poll_s() == 0.5


def test_a_campaign_that_would_ask_a_cluster_too_often_is_refused_with_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ARCH_SEARCH_POLL_LEAST_S", raising=False)
    with pytest.raises(ConfigError, match=r"slurm\.poll_s=5: .* use slurm\.poll_s=30 or more"):
        queue_poll_s(load_config(["slurm=cluster", "slurm.poll_s=5"]).slurm)
    assert queue_poll_s(load_config(["slurm=cluster", "slurm.poll_s=45"]).slurm) == 45
    # trainings on this machine are looked at each second, the job of a model server is not
    assert queue_poll_s(load_config(["slurm=local", "slurm.poll_s=1"]).slurm) == 30

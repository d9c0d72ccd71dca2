from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import SMALL, arch_search, descendants, kill, start

from arch_search.agents.call_log import CallLog
from arch_search.budget import Asked, Expenses, asked_json, gpus_asked, spent, stop_reason
from arch_search.campaign import Campaign, start_or_continue
from arch_search.dispatch import Dispatcher
from arch_search.errors import CampaignError
from arch_search.launching import make_launcher
from arch_search.reporting import progress_of
from arch_search.settings import load_config
from cognition_db.experience.archive import ArchiveContents, read_archive

TASK = "0123456789abcdef-smoke-s0"
MakeCampaign = Callable[..., Campaign]


@pytest.fixture
def campaign_of(tmp_path: Path) -> MakeCampaign:
    def make(*overrides: str) -> Campaign:
        config = load_config([*SMALL, f"campaign.dir={tmp_path / 'c'}", *overrides])
        campaign = start_or_continue(config, command=["test"], base=tmp_path)
        campaign.journal.close()
        return campaign

    return make


def train(campaign: Campaign, unit: str, *, hours: float, ending: str = "finished", attempt: int = 1) -> None:
    """Leave what a worker leaves that has recorded one training."""
    folder = campaign.generation(1).unit(unit).root
    folder.mkdir(parents=True, exist_ok=True)
    record = {"ending": ending, "wall_s": hours * 3600, "task": {"attempt": attempt}}
    (folder / f"{TASK}.json").write_text(json.dumps(record))


def begin(campaign: Campaign, unit: str, *, hours: float) -> None:
    """Leave what a worker leaves that is at its first training."""
    heartbeat = campaign.generation(1).unit(unit).heartbeat
    heartbeat.parent.mkdir(parents=True, exist_ok=True)
    heartbeat.write_text(json.dumps({"task": TASK, "attempt": 1, "wall_s": hours * 3600}))


def shard(campaign: Campaign, unit: str) -> None:
    path = campaign.generation(1).shard(unit, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        ([], 0),
        (["slurm.gres=gpu:2"], 2),
        (["slurm.gres=gpu"], 1),
        (["slurm.gres=gpu:a100"], 1),
        (["slurm.gres='gpu:a100:4,shard:1'"], 4),
        (["slurm.gres=shard:3"], 0),
        (["slurm.gpus_per_task=2"], 2),
        (["slurm.gpus_per_task=a100:3"], 3),
        (["slurm.extra_sbatch.gpus=8"], 8),
        (["slurm.extra_sbatch.gpus-per-node=h100:2"], 2),
    ],
)
def test_the_gpus_of_a_unit_are_read_from_any_way_to_ask_for_them(settings: list[str], gpus: int) -> None:
    assert gpus_asked(load_config(["slurm=cluster", *settings]).slurm) == gpus


def test_hours_are_counted_by_how_trainings_ended(campaign_of: MakeCampaign) -> None:
    campaign = campaign_of("stage.threads=2")
    train(campaign, "g0001-u0000", hours=1.0)
    train(campaign, "g0001-u0001", hours=0.5, ending="non_finite")
    begin(campaign, "g0001-u0002", hours=0.25)
    budget = spent(campaign)
    assert budget.unit == "core-hours"
    assert budget.by_outcome == {"finished": 2.0, "non_finite": 1.0, "running": 0.5}
    assert budget.used == 3.5
    assert budget.left is None


def test_gpus_are_counted_where_units_ask_for_them_and_cores_beside(campaign_of: MakeCampaign) -> None:
    campaign = campaign_of("slurm=cluster", "slurm.gres=gpu:2", "slurm.cpus_per_task=8", "campaign.max_gpu_hours=10")
    train(campaign, "g0001-u0000", hours=3.0)
    budget = spent(campaign)
    assert (budget.unit, budget.used, budget.left) == ("GPU-hours", 6.0, 4.0)
    assert budget.core_hours == 24.0


def test_a_training_begun_by_a_unit_that_was_given_up_is_lost(campaign_of: MakeCampaign) -> None:
    campaign = campaign_of()
    begin(campaign, "g0001-u0000", hours=0.5)
    shard(campaign, "g0001-u0000")
    assert spent(campaign).by_outcome == {"lost": 0.5}


def test_a_model_server_that_is_a_job_is_counted_while_it_serves(campaign_of: MakeCampaign) -> None:
    campaign = campaign_of("slurm=cluster", "slurm.gres=gpu:1", "llm.job.gres=gpu:4")
    train(campaign, "g0001-u0000", hours=1.0)
    endpoint = campaign.paths.server("r0-0001").endpoint
    endpoint.parent.mkdir(parents=True)
    endpoint.write_text(json.dumps({"started_unix": 1_000_000.0}))
    os.utime(endpoint, (1_000_000.0 + 1800, 1_000_000.0 + 1800))
    assert spent(campaign).by_outcome == {"finished": 1.0, "model server": 2.0}


def test_a_round_keeps_its_price_when_the_settings_change(campaign_of: MakeCampaign) -> None:
    campaign = campaign_of("slurm=cluster", "slurm.gres=gpu:2")
    asked = asked_json(Asked(gpus=4, cores=1, timeout_min=60))
    campaign.generation(1).root.mkdir(parents=True)
    campaign.generation(1).submission(1).write_text(json.dumps({"state": "submitted", "asked": asked}))
    train(campaign, "g0001-u0000", hours=1.0)
    train(campaign, "g0001-u0001", hours=1.0, attempt=2)
    assert spent(campaign).used == 4.0 + 2.0


def test_a_settled_generation_is_known_without_its_units(campaign_of: MakeCampaign) -> None:
    campaign = campaign_of("campaign.max_gpu_hours=5")
    train(campaign, "g0001-u0000", hours=1.0)
    before = spent(campaign)
    Expenses(campaign).settle(1)
    (campaign.generation(1).unit("g0001-u0000").root / f"{TASK}.json").unlink()
    assert spent(campaign) == before


def test_units_with_a_shard_are_read_once(campaign_of: MakeCampaign) -> None:
    campaign = campaign_of()
    expenses = Expenses(campaign)
    for unit in ("g0001-u0000", "g0001-u0001"):
        train(campaign, unit, hours=1.0)
    shard(campaign, "g0001-u0000")
    expenses.budget()
    for unit in ("g0001-u0000", "g0001-u0001"):
        train(campaign, unit, hours=2.0)
    assert expenses.budget().used == 3.0


def test_a_damaged_record_does_not_keep_the_rest_from_being_counted(campaign_of: MakeCampaign) -> None:
    campaign = campaign_of()
    train(campaign, "g0001-u0000", hours=1.0)
    campaign.generation(1).unit("g0001-u0001").root.mkdir(parents=True)
    (campaign.generation(1).unit("g0001-u0001").root / f"{TASK}.json").write_text('{"ending": 3}')
    assert spent(campaign).used == 1.0


def test_without_history_a_round_is_taken_to_cost_its_time_limits(campaign_of: MakeCampaign) -> None:
    expenses = Expenses(campaign_of("campaign.max_gpu_hours=3.9", "slurm.timeout_min=60"))
    with pytest.raises(CampaignError, match=r"next 4 units may cost 4 by their time limits.*max_gpu_hours=4 or more"):
        expenses.require(units=4, tasks=8)
    expenses.require(units=3, tasks=8)


def test_with_history_a_round_is_taken_to_cost_what_trainings_cost(campaign_of: MakeCampaign) -> None:
    campaign = campaign_of("campaign.max_gpu_hours=1", "slurm.timeout_min=60")
    train(campaign, "g0001-u0000", hours=0.1)
    begin(campaign, "g0001-u0001", hours=0.0)  # says nothing yet of what a training costs
    expenses = Expenses(campaign)
    expenses.require(units=8, tasks=8)
    with pytest.raises(CampaignError, match=r"0\.1 core-hours are used, 0\.9 are left, and the next 10 units"):
        expenses.require(units=10, tasks=10)


def test_a_campaign_without_a_limit_is_never_refused(campaign_of: MakeCampaign) -> None:
    Expenses(campaign_of()).require(units=10**6, tasks=10**6)


def test_only_more_than_the_limit_stops_what_runs(campaign_of: MakeCampaign) -> None:
    campaign = campaign_of("campaign.max_gpu_hours=1")
    train(campaign, "g0001-u0000", hours=1.0)
    assert stop_reason(spent(campaign)) is None
    train(campaign, "g0001-u0001", hours=0.5)
    reason = stop_reason(spent(campaign))
    assert reason is not None
    assert "campaign.max_gpu_hours=1.5 or more" in reason
    assert stop_reason(replace(spent(campaign), limit=2.0)) is None


# one generation of one mutation: nothing here depends on what is trained
ONE_GENERATION = (
    *SMALL, "campaign.dir=c", "campaign.generations=1", "campaign.baselines=[]", "campaign.slots.grammar_edit=0",
    "campaign.slots.grammar_program=0", "campaign.slots.placebo=0",
)  # fmt: skip


@pytest.mark.slow
def test_a_campaign_stops_before_a_round_it_cannot_pay_and_goes_on_with_more(tmp_path: Path) -> None:
    refused = arch_search("run", *ONE_GENERATION, "campaign.max_gpu_hours=0.001", cwd=tmp_path)
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "campaign.max_gpu_hours=0.001" in refused.stderr
    assert not list(tmp_path.glob("c/gen-*/units/*"))

    paid = arch_search("run", *ONE_GENERATION, "campaign.max_gpu_hours=100", cwd=tmp_path)
    assert paid.returncode == 0, paid.stdout + paid.stderr
    facts = json.loads(arch_search("status", "c", "--json", cwd=tmp_path).stdout)
    walls = sum(one.wall_s for one in _contents(tmp_path).evaluations)
    assert facts["budget"]["limit"] == 100
    assert facts["budget"]["used"] == pytest.approx(walls / 3600, abs=1e-4)
    assert "core-hours" in (tmp_path / "c" / "report.html").read_text()


@pytest.mark.slow
def test_what_runs_beyond_the_budget_is_cancelled_without_using_up_an_attempt(tmp_path: Path) -> None:
    """The limit is lowered under a campaign whose trainings run, which is then over it at once."""
    settings = (
        *ONE_GENERATION, "slurm=local", "slurm.max_parallel=1", "slurm.poll_s=0.2", "campaign.attempts_per_task=1",
        "stage.recall.steps=200",
    )  # fmt: skip
    driver = start("run", *settings, "campaign.max_gpu_hours=100", cwd=tmp_path)
    while not list(tmp_path.glob("c/gen-0000/units/*/heartbeat.json")):
        assert driver.poll() is None, (tmp_path / "out.txt").read_text()
    running = descendants(driver.pid)
    kill(driver)

    stopped = arch_search("run", *settings, "campaign.max_gpu_hours=1e-7", cwd=tmp_path)
    assert stopped.returncode == 1
    assert "what ran was cancelled" in stopped.stderr
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in running):
        assert time.monotonic() < until, "what ran goes on"
        time.sleep(0.1)
    status = arch_search("status", "c", cwd=tmp_path).stdout
    assert "stands still" in status

    paid = arch_search("run", *settings, "campaign.max_gpu_hours=100", cwd=tmp_path)
    assert paid.returncode == 0, paid.stdout + paid.stderr
    assert all(one.ending == "finished" for one in _contents(tmp_path).evaluations)


def _contents(cwd: Path) -> ArchiveContents:
    return read_archive(cwd / "c" / "archive.h5")


def test_the_live_panel_tells_what_is_used_by_now(campaign_of: MakeCampaign) -> None:
    campaign = campaign_of()
    dispatcher = Dispatcher(campaign, make_launcher(campaign), lambda event: None)
    calls = CallLog(campaign.paths.calls, campaign.paths.text)
    for unit, used in (("g0001-u0000", "0.5"), ("g0001-u0001", "1")):
        train(campaign, unit, hours=0.5)
        shown = progress_of(campaign, dispatcher, activity="trains", calls=calls).budget
        assert shown == f"{used} core-hours used, no limit (finished {used})"

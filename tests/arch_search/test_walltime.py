from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import SMALL

from arch_search.campaign import Campaign, start_or_continue
from arch_search.dispatch import wall_time_min
from arch_search.settings import load_config
from arch_search.walltime import estimate_min, unit_min
from cognition_db.experience.archive import ArchiveContents, write_archive
from cognition_db.records import Evaluation, Task


def evaluation(seed: int, *, wall_s: float, ending: str = "finished", stage: str = "smoke") -> Evaluation:
    return Evaluation(
        task=Task(candidate_id="0" * 16, stage=stage, seed=seed, attempt=1), unit="u", fencing_token="t",
        ending=ending, cause="", scores=(), curve_steps=(), curve_loss=(), tokens_seen=0, parameter_count=0,
        wall_s=wall_s, cpu_s=0.0, peak_memory_mb=0.0, resumed_from_step=0, started_unix=0.0, host="", versions={},
        config_sha256="", program_sha256="",
    )  # fmt: skip


def campaign_with(folder: Path, *evaluations: Evaluation, settings: tuple[str, ...] = ()) -> Campaign:
    config = load_config([*SMALL, f"campaign.dir={folder / 'c'}", "slurm.timeout_min=300", *settings])
    campaign = start_or_continue(config, command=["test"], base=folder)
    write_archive(campaign.paths.archive, ArchiveContents(tries=(), evaluations=evaluations, lessons=(), candidates=()))
    return campaign


def hour_each(*, stage: str = "smoke", ending: str = "finished") -> list[Evaluation]:
    return [evaluation(seed, wall_s=3600, stage=stage, ending=ending) for seed in range(4)]


def test_a_unit_gets_the_time_of_its_tasks_and_a_margin() -> None:
    one = unit_min([600.0] * 20, tasks_per_unit=1, warn_s=60)
    four = unit_min([600.0] * 20, tasks_per_unit=4, warn_s=60)
    assert one == 18  # 1.5 x 600 s, 120 s to start, 60 s of warning
    assert four == 63


def test_one_slow_training_of_many_does_not_set_the_time_of_all() -> None:
    assert unit_min([600.0] * 39 + [6000.0], tasks_per_unit=1, warn_s=60) == 18


def test_short_trainings_still_get_a_few_minutes() -> None:
    assert unit_min([1.0] * 5, tasks_per_unit=1, warn_s=10) == 5


def test_nothing_is_estimated_from_a_few_unfinished_or_other_trainings(tmp_path: Path) -> None:
    campaign = campaign_with(
        tmp_path, *hour_each(stage="other"), *(evaluation(seed, wall_s=60.0, ending="timed_out") for seed in range(9))
    )
    assert estimate_min(campaign) is None
    assert unit_min([60.0, 60.0], tasks_per_unit=1, warn_s=60) is None


def test_an_estimate_that_was_too_short_is_doubled_with_every_round_up_to_the_setting(tmp_path: Path) -> None:
    campaign = campaign_with(tmp_path, *hour_each())
    assert [estimate_min(campaign, round_number=number) for number in (1, 2, 3)] == [94, 188, 300]


@pytest.mark.parametrize("is_on, expected", [("true", 94), ("false", None)])
def test_the_setting_decides_whether_units_ask_for_the_estimate(
    tmp_path: Path, is_on: str, expected: int | None
) -> None:
    campaign = campaign_with(tmp_path, *hour_each(), settings=(f"slurm.estimate_time={is_on}",))
    assert wall_time_min(campaign, 1) == expected

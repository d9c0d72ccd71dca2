"""`campaign=gallery`: every program of the gallery and every baseline with the same seeds, and no language model."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import arch_search, archive

from arch_search.campaign import Campaign, open_campaign
from arch_search.commands.plan import next_round
from arch_search.domains import domain_named
from arch_search.errors import ConfigError
from arch_search.generation import slot_plans
from arch_search.integrity import check_campaign
from arch_search.paths import CampaignPaths
from arch_search.progress import tasks_planned
from arch_search.settings import config_sha256, load_config

SHIPPED = Path(__file__).parents[2] / "arch_search" / "models"
GALLERY = (
    "campaign=gallery", "stage=smoke", "slurm=local", "slurm.max_parallel=1", "slurm.tasks_per_unit=4",
    "data.max_bytes=200000", "campaign.baselines=[ada_multi_path_gate_net]", "campaign.reference_seeds=2",
    "campaign.baseline_seeds=2",
)  # fmt: skip


def thought_of(folder: Path, *words: str) -> Campaign:
    """A campaign that is only planned."""
    config = load_config(words)
    return Campaign(
        paths=CampaignPaths(folder), uuid="0" * 32, config=config, config_sha256=config_sha256(config), command="",
        started_unix=0.0, versions={},
    )  # fmt: skip


def test_it_names_every_shipped_program_once() -> None:
    shipped = {file.stem for room in ("baselines", "gallery") for file in (SHIPPED / room).glob("[a-z]*.py")}
    named = load_config(["campaign=gallery"]).campaign.baselines
    assert sorted(named) == sorted(shipped)
    assert all("nn.Module" in domain_named("linear_attention").baseline(name) for name in named)


def test_all_programs_train_with_three_seeds_and_nothing_comes_after(tmp_path: Path) -> None:
    campaign = thought_of(tmp_path, "campaign=gallery")
    assert tasks_planned(campaign) == next_round(campaign).tasks == 3 * 12
    assert slot_plans(campaign.config) == ()
    assert campaign.config.stage.name == "laptop"


def test_a_campaign_of_before_trains_each_baseline_once() -> None:
    assert load_config(["campaign=demo"]).campaign.baseline_seeds == 1
    with pytest.raises(ConfigError, match=r"reference_seeds=3 is less than campaign.baseline_seeds=4; .* paired"):
        load_config(["campaign=demo", "campaign.baseline_seeds=4"])


@pytest.mark.slow
def test_a_run_needs_no_model_and_ends_with_a_table_of_paired_intervals(tmp_path: Path) -> None:
    answer = arch_search("run", *GALLERY, cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr

    campaign = open_campaign(tmp_path / "campaigns" / "gallery-001")
    assert not campaign.paths.calls.exists()
    assert not campaign.paths.server_log.exists()
    contents = archive(tmp_path, "gallery-001")
    reference, program = contents.candidates
    assert (reference.name, program.name) == ("deltanet", "ada_multi_path_gate_net")
    assert abs(program.parameter_count / reference.parameter_count - 1) <= campaign.config.stage.parameter_tolerance
    trained = [(one.task.candidate_id, one.task.seed, one.ending) for one in contents.evaluations]
    assert sorted(trained) == sorted((one.id, seed, "finished") for one in (reference, program) for seed in (0, 1))
    assert check_campaign(campaign) == []
    assert not campaign.generation(1).root.exists()

    interval = r"[+−]\d\.\d{3} \[[+−]\d\.\d{3}, [+−]\d\.\d{3}\]"
    assert re.search(rf"^ada_multi_path_gate_net +2 +\d\.\d+ {interval} ", answer.stdout, re.MULTILINE)
    assert re.search(r"^deltanet +2 +\d\.\d+ +reference$", answer.stdout, re.MULTILINE)
    report = campaign.paths.report.read_text()
    assert "2 programs trained, the reference among them" in report
    assert "<dt>Model</dt><dd>none</dd>" in report
    assert "ada_multi_path_gate_net: heldout_loss" in arch_search(
        "status", "campaigns/gallery-001", cwd=tmp_path
    ).stdout.replace("\n", " ")

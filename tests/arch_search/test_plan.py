"""`arch-search plan`: exact scripts, counts and cost, and nothing left behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import SMALL, arch_search

from arch_search.campaign import start_or_continue
from arch_search.commands.plan import next_round
from arch_search.dispatch import order_of
from arch_search.settings import load_config

CLUSTER = ("campaign=demo", "slurm=cluster", "slurm.partition=gpu", "slurm.gres=gpu:2", "slurm.timeout_min=90")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_plan_of_a_new_campaign_has_counts_cost_and_the_script_and_writes_nothing(tmp_path: Path) -> None:
    answer = arch_search("plan", *CLUSTER, "slurm.tasks_per_unit=3", "slurm.max_parallel=2", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "generation  0, round 1: 3 units, 8 trainings" in answer.stdout
    assert "cost        at most 9 GPU-hours" in answer.stdout
    assert "#SBATCH --array=0-2%2" in answer.stdout
    assert "#SBATCH --partition=gpu" in answer.stdout
    assert list(tmp_path.iterdir()) == []


def test_further_scripts_are_the_lines_that_differ(tmp_path: Path) -> None:
    answer = arch_search("plan", *CLUSTER, "slurm.max_submitted=5", cwd=tmp_path)
    assert "arrays      2 of up to 5 elements, 8 elements in all" in answer.stdout
    assert "waves       2: the first 5 elements at once" in answer.stdout
    rest = answer.stdout.partition("# batch script 2 of 2: as the first, but\n")[2].splitlines()
    assert rest[0] == "#SBATCH --array=0-2%3"
    assert re.fullmatch(r"#SBATCH --job-name=asx-demo-g0-[0-9a-f]{12}-5", rest[1])
    assert len(rest) == 3  # the third names the file of commands


def test_the_plan_of_an_existing_campaign_leaves_its_folder_as_it_is(tmp_path: Path) -> None:
    config = load_config([*SMALL, "slurm=cluster", f"campaign.dir={tmp_path / 'c'}"])
    campaign = start_or_continue(config, command=["test"], base=tmp_path)
    campaign.journal.close()
    before = files(tmp_path / "c")
    answer = arch_search("plan", str(tmp_path / "c"), cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert f"#SBATCH --comment={order_of(campaign, 0, 1, ()).comment}\n" in answer.stdout
    assert files(tmp_path / "c") == before


def test_the_script_of_the_plan_is_one_that_bash_can_read(tmp_path: Path) -> None:
    answer = arch_search("plan", *CLUSTER, cwd=tmp_path)
    script = answer.stdout.partition("# batch script 1 of 1\n")[2]
    assert script.startswith("#!/bin/bash\n")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_plan_without_a_cluster_says_how_units_run(tmp_path: Path) -> None:
    answer = arch_search("plan", "campaign=demo", cwd=tmp_path)
    assert answer.returncode == 0
    assert "slurm.launcher=local runs units as processes here" in answer.stdout


@pytest.mark.parametrize("tasks_per_unit, units", [(1, 8), (3, 3), (100, 1)])
def test_open_slots_are_counted_as_if_each_gave_a_program(tmp_path: Path, tasks_per_unit: int, units: int) -> None:
    config = load_config(["campaign=demo", f"slurm.tasks_per_unit={tasks_per_unit}", f"campaign.dir={tmp_path / 'c'}"])
    campaign = start_or_continue(config, command=["test"], base=tmp_path)
    campaign.journal.close()
    upcoming = next_round(campaign)
    assert (len(upcoming.units), upcoming.tasks, upcoming.number) == (units, 8, 1)


@pytest.mark.parametrize("words, code, text", [([], 2, "campaign folder"), (["no/such/folder"], 1, "no campaign here")])
def test_wrong_use_of_plan_is_one_line(tmp_path: Path, words: list[str], code: int, text: str) -> None:
    answer = arch_search("plan", *words, cwd=tmp_path)
    assert answer.returncode == code
    assert text in answer.stderr
    assert "Traceback" not in answer.stderr

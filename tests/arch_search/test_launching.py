"""From settings to what Slurm is asked for and what a unit runs: profiles, modules, environments, containers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from arch_search.errors import ConfigError
from arch_search.launching import CONTAINER_HOME, PACKAGES, module_command, setup_lines, unit_resources
from arch_search.settings import load_config

REPOSITORY = Path(__file__).parents[2]
PROFILES = sorted(path.stem for path in (REPOSITORY / "hydra_conf" / "slurm").glob("site_*.yaml"))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_site_profile_composes_and_its_first_line_says_when_to_use_it(profile: str) -> None:
    settings = load_config([f"slurm={profile}"]).slurm
    assert settings.launcher == "cluster"
    unit_resources(settings)
    text = (REPOSITORY / "hydra_conf" / "slurm" / f"{profile}.yaml").read_text()
    assert text.startswith("# Use this where ")


def test_there_is_a_profile_for_each_kind_of_site() -> None:
    kinds = {"typed_gres", "gpus_per_task", "modules_venv", "apptainer", "no_accounting"}
    assert {profile.removeprefix("site_") for profile in PROFILES} == kinds


@pytest.mark.parametrize(
    "both", [("slurm.gres=gpu:1", "slurm.gpus_per_task=1"), ("slurm.venv=/v", "slurm.container=/i.sif")]
)
def test_two_ways_to_say_one_thing_are_refused_with_both_names(both: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(both)
    assert all(one in str(error.value) for one in both)


def test_a_list_of_partitions_an_account_of_digits_and_any_option_of_sbatch_reach_slurm_as_typed() -> None:
    typed = ["slurm.partition=gpu,long", "slurm.account=12345", "slurm.extra_sbatch.wckey=w", "slurm.gpus_per_task=1"]
    asked = unit_resources(load_config(["slurm=cluster", "slurm.mail_type=FAIL,END", *typed]).slurm)
    assert (asked.partition, asked.account, asked.gpus_per_task) == ("gpu,long", "12345", "1")
    assert asked.extra_sbatch == {"wckey": "w"}
    assert asked.mail_type == "FAIL,END"


def test_no_wckey_is_asked_for_by_itself() -> None:
    assert "wckey" not in unit_resources(load_config(["slurm=cluster"]).slurm).extra_sbatch


def test_modules_are_loaded_before_the_environment_and_both_before_the_users_own_lines() -> None:
    settings = load_config(
        ["slurm=cluster", "slurm.modules=[python/3.11,cuda]", "slurm.venv=/v", "slurm.setup=['ulimit -n 99']"]
    ).slurm
    lines = setup_lines(settings)
    wanted = ["module load python/3.11", "module load cuda", "source /v/bin/activate", "ulimit -n 99"]
    found = [next(index for index, line in enumerate(lines) if line.startswith(words)) for words in wanted]
    assert found == sorted(found)


def test_a_module_that_does_not_load_ends_the_unit_and_one_that_does_lets_it_go_on() -> None:
    settings = load_config(["slurm=cluster", "slurm.modules=[python/3.11,cuda]"]).slurm
    script = "\n".join(['module() { echo "$@"; [ "$2" != "$BAD" ]; }', *setup_lines(settings), "echo started"])
    good = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env={"BAD": ""}, timeout=20)
    bad = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env={"BAD": "cuda"}, timeout=20)
    assert good.stdout.splitlines() == ["load python/3.11", "load cuda", "started"]
    assert (bad.returncode, bad.stdout.splitlines()[-1]) == (1, "load cuda")


def test_units_run_with_the_drivers_python_unless_the_nodes_have_an_environment_of_their_own() -> None:
    def python(*overrides: str) -> str:
        return module_command(load_config(overrides).slurm, [], "arch_search.worker", "m", "0")[0]

    assert python("slurm=cluster") == sys.executable
    assert python("slurm=cluster", "slurm.venv=/scratch/v") == "/scratch/v/bin/python"
    assert python("slurm=local", "slurm.venv=/scratch/v") == sys.executable


def test_a_container_runs_the_program_of_the_driver_and_sees_the_campaign() -> None:
    settings = load_config(["slurm=cluster", "slurm.container=/images/a.sif", "slurm.gres=gpu:1"]).slurm
    command = module_command(settings, [Path("/scratch/campaign")], "arch_search.worker", "manifest.json", "7")
    assert command[:3] == ["apptainer", "exec", "--nv"]
    image = command.index("/images/a.sif")
    assert command[image + 1 :] == ["python", "-m", "arch_search.worker", "manifest.json", "7"]
    binds = [command[index + 1] for index, word in enumerate(command) if word == "--bind"]
    assert [f"{REPOSITORY / name}:{CONTAINER_HOME}/{name}:ro" for name in PACKAGES] == binds[:-1]
    assert binds[-1] == "/scratch/campaign"
    assert f"PYTHONPATH={CONTAINER_HOME}" in command


def test_a_container_without_a_gpu_is_not_given_the_drivers_of_one() -> None:
    settings = load_config(["slurm=cluster", "slurm.container=/images/a.sif"]).slurm
    assert "--nv" not in module_command(settings, [], "arch_search.worker")


def test_the_nodes_own_disk_is_shown_in_a_container() -> None:
    lines = setup_lines(load_config(["slurm=cluster", "slurm.container=/images/a.sif"]).slurm)
    script = "\n".join([*lines, 'echo "$APPTAINER_BIND"'])

    def shown(**variables: str) -> str:
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=variables).stdout.strip()

    assert shown(SLURM_TMPDIR="/local/4711") == "/local/4711"
    assert shown(TMPDIR="/local/t", APPTAINER_BIND="/data") == "/local/t,/data"
    assert shown() == "/tmp"


def test_the_definition_of_the_container_names_every_library_the_program_needs() -> None:
    text = (REPOSITORY / "slurm" / "arch_search.def").read_text()
    project = (REPOSITORY / "pyproject.toml").read_text().partition("dependencies = [")[2].partition("]")[0]
    needed = [line.strip().strip('",').partition(">")[0] for line in project.splitlines() if line.strip()]
    assert "torch" in needed
    assert not [name for name in needed if f"{name}==" not in text]
    assert all(f"{CONTAINER_HOME}/{name}" in text for name in PACKAGES)

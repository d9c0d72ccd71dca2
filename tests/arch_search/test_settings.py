from __future__ import annotations

from functools import reduce
from operator import getitem

import pytest

from arch_search.config import Config
from arch_search.errors import ConfigError
from arch_search.settings import (
    changed_keys,
    config_from_json,
    config_of_older,
    config_sha256,
    config_to_json,
    load_config,
)


@pytest.mark.parametrize("campaign", ["demo", "laptop", "smoke", "agents", "gallery"])
@pytest.mark.parametrize("launcher", ["local", "inline", "cluster"])
def test_every_shipped_choice_composes(campaign: str, launcher: str) -> None:
    config = load_config([f"campaign={campaign}", f"slurm={launcher}"])
    assert config.campaign.name == campaign
    assert config.stage.name == {"agents": "minute", "gallery": "laptop"}.get(campaign, campaign)
    assert config.slurm.launcher == launcher


@pytest.mark.parametrize("stage, d_model, n_layers", [("explore", 256, 8), ("verify", 1024, 24)])
def test_the_stages_for_a_gpu_are_of_the_published_size(stage: str, d_model: int, n_layers: int) -> None:
    found = load_config([f"stage={stage}"]).stage
    assert (found.d_model, found.n_layers, found.n_heads, found.steps) == (d_model, n_layers, 8, 2000)
    assert found.batch_size * found.seq_len == 524_288
    assert (found.device, found.precision, found.step_unit) == ("cuda", "bfloat16", "seconds")


@pytest.mark.parametrize(
    "override, expected",
    [
        ("campaign=demoo", "demo"),
        ("stage.stps=3", "stage.steps"),
        ("campaign.genrations=3", "campaign.generations"),
        ("stage.steps=abc", "stage.steps='abc'"),
        ("stage.steps=-1", "stage.steps=-1"),
        ("campain.seed=1", "nearest"),
        ("x", "key=value"),
        ("llm=endpoint", "llm.base_url"),
        ("stage.d_model=63", "multiple"),
        ("campaign.reference_seeds=1", "seeds_per_candidate"),
        ("stage.steps=[1", "stage.steps"),
        ("campaign.slots.best_of_ne=1", "campaign.slots.best_of_n"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_what_is_right(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config([override])
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_control_without_what_it_controls_is_refused() -> None:
    nothing = [f"campaign.slots.{rung}=0" for rung in ("grammar_edit", "grammar_program", "toolbox_program")]
    assert load_config(["campaign.slots.best_of_n=2"]).campaign.slots.best_of_n == 2
    with pytest.raises(ConfigError, match=r"best_of_n=2 is the control of .*grammar_edit"):
        load_config([*nothing, "campaign.slots.best_of_n=2"])


def test_a_config_survives_its_json_form() -> None:
    config = load_config(["campaign=smoke", "slurm.extra_sbatch.nice=5"])
    assert config.slurm.extra_sbatch == {"nice": 5}
    assert config_from_json(config_to_json(config)) == config


def test_the_hash_ignores_where_a_campaign_runs_and_sees_what_it_measures() -> None:
    plain = load_config([])
    assert config_sha256(load_config(["slurm=cluster", "llm.parallel_requests=2"])) == config_sha256(plain)
    assert config_sha256(load_config(["stage.steps=61"])) != config_sha256(plain)


def test_changed_keys_names_only_what_may_not_change() -> None:
    old, new = _json(load_config([])), _json(load_config(["slurm=inline", "campaign.seed=5", "campaign.dir=x"]))
    assert changed_keys(old, new) == ["campaign.seed: 20261120 there, 5 here"]


def _json(config: Config) -> dict[str, object]:
    return config_to_json(config)


def test_a_campaign_from_before_a_machine_setting_was_added_opens_with_its_default_and_the_same_hash() -> None:
    config = load_config([])
    older = config_to_json(config)
    del older["slurm"]["driver"], older["slurm"]["lease_s"], older["llm"]["job"], older["campaign"]["max_gpu_hours"]
    reopened = config_of_older(older)
    assert reopened == config
    assert config_sha256(reopened) == config_sha256(config)


def test_a_campaign_from_before_repeats_and_the_control_opens_without_them_and_with_the_same_hash() -> None:
    config = load_config([])
    older = config_to_json(config)
    del older["selection"]["repeat_seeds"], older["campaign"]["slots"]["best_of_n"]
    reopened = config_of_older(older)
    assert (reopened.selection.repeat_seeds, reopened.campaign.slots.best_of_n) == (0, 0)
    # the hash of this choice of settings as it was before there were repeats and the control
    assert config_sha256(reopened) == config_sha256(config)
    assert config_sha256(load_config(["selection.repeat_seeds=1"])) != config_sha256(config)
    assert config_sha256(load_config(["campaign.slots.best_of_n=1"])) != config_sha256(config)


@pytest.mark.parametrize(
    ("added", "other"),
    [
        ("campaign.baseline_seeds", "2"),
        ("campaign.slots.crossover", "1"),
        ("campaign.slots.simplify", "1"),
        ("campaign.slots.ladder", "1"),
        ("campaign.ladder_probe", "3"),
        ("campaign.ladder_stop_after", "3"),
        ("campaign.ladder_look_again", "3"),
        ("roles.highest_rung", "whole_module"),
    ],
)
def test_a_campaign_from_before_a_setting_was_added_opens_as_it_was(added: str, other: str) -> None:
    config = load_config([])
    older = config_to_json(config)
    *path, name = added.split(".")
    del reduce(getitem, path, older)[name]
    assert config_of_older(older) == config
    assert config_sha256(load_config([f"{added}={other}"])) != config_sha256(config)


def test_a_campaign_that_lacks_a_measuring_setting_is_refused_by_its_name() -> None:
    older = config_to_json(load_config([]))
    del older["stage"]["steps"]
    with pytest.raises(ConfigError, match=r"stage\.steps"):
        config_of_older(older)

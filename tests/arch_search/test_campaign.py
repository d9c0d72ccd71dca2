from __future__ import annotations

from pathlib import Path

import pytest

from arch_search.campaign import Campaign, open_campaign, start_or_continue
from arch_search.config import Config
from arch_search.errors import CampaignError, ConfigError
from arch_search.settings import load_config
from cognition_db.experience.errors import StoreError


def _start(base: Path, *overrides: str) -> Campaign:
    return start_or_continue(_config(*overrides), command=["arch-search", "run"], base=base)


def _config(*overrides: str) -> Config:
    return load_config(["campaign=smoke", "llm=recorded", "llm.recording=none.jsonl", *overrides])


def test_an_unfinished_campaign_is_continued_and_a_finished_one_gets_the_next_number(tmp_path: Path) -> None:
    first = _start(tmp_path)
    assert first.paths.root.name == "smoke-001"
    first.journal.close()
    again = _start(tmp_path)
    assert (again.paths.root, again.uuid) == (first.paths.root, first.uuid)
    for number in range(first.config.campaign.generations + 1):
        again.journal.append("generation-closed", {"generation": number, "archive_sha256": ""})
    again.journal.close()
    assert _start(tmp_path).paths.root.name == "smoke-002"


def test_other_settings_on_an_unfinished_campaign_are_refused_by_name(tmp_path: Path) -> None:
    _start(tmp_path).journal.close()
    with pytest.raises(ConfigError, match=r"campaign\.seed: 20261120 there, 7 here"):
        _start(tmp_path, "campaign.seed=7")


def test_where_it_runs_may_change_between_two_starts(tmp_path: Path) -> None:
    _start(tmp_path).journal.close()
    assert _start(tmp_path, "slurm=inline").config.slurm.launcher == "inline"


def test_a_folder_with_other_things_in_it_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(CampaignError, match="not empty"):
        _start(tmp_path, f"campaign.dir={tmp_path}")
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_missing_campaign_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="no campaign here"):
        open_campaign(tmp_path / "nowhere")


def test_a_damaged_campaign_file_is_one_line(tmp_path: Path) -> None:
    campaign = _start(tmp_path)
    campaign.paths.campaign_json.write_text("{")
    with pytest.raises(StoreError, match=r"campaign\.json"):
        open_campaign(campaign.paths.root)

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from arch_search.campaign import Campaign, open_campaign, start_or_continue
from arch_search.config import Config
from arch_search.errors import CampaignError, ConfigError
from arch_search.settings import load_config
from cognition_db.experience.errors import StoreError

# written and not yet renamed
_DIES_CREATING = """
import os, sys
from pathlib import Path
from arch_search.campaign import start_or_continue
from arch_search.settings import load_config

def replace(old, new, replace=os.replace):
    os._exit(9) if Path(new).name == "campaign.json" else replace(old, new)

os.replace = replace
words = ["campaign=smoke", "llm=recorded", "llm.recording=none.jsonl", f"campaign.dir={sys.argv[1]}"]
start_or_continue(load_config(words), command=["arch-search", "run"], base=Path(sys.argv[1]).parent)
"""


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


def test_a_folder_in_which_a_driver_died_while_it_made_the_campaign_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    died = subprocess.run([sys.executable, "-c", _DIES_CREATING, str(folder)], timeout=60)
    assert died.returncode == 9
    assert any(path.suffix == ".tmp" for path in folder.iterdir())
    assert not (folder / "campaign.json").exists()
    assert _start(tmp_path, f"campaign.dir={folder}").paths.root == folder


def test_a_campaign_has_a_secret_of_its_own_or_that_of_the_campaign_it_repeats(tmp_path: Path) -> None:
    first, other = _start(tmp_path / "a"), _start(tmp_path / "b")
    assert first.secret != other.secret
    again = _start(tmp_path / "c", f"campaign.secret_from={first.paths.secret}")
    assert again.secret == first.secret
    assert again.config_sha256 == first.config_sha256
    assert first.secret not in first.paths.campaign_json.read_text()
    with pytest.raises(StoreError, match="64 hex digits"):
        _start(tmp_path / "d", f"campaign.secret_from={first.paths.campaign_json}")


def test_a_campaign_that_was_started_before_there_were_secrets_goes_on_without_one(tmp_path: Path) -> None:
    campaign = _start(tmp_path)
    campaign.journal.close()
    data = json.loads(campaign.paths.campaign_json.read_text())
    del data["secret_sha256"], data["config"]["campaign"]["secret_from"]
    campaign.paths.campaign_json.write_text(json.dumps(data))
    campaign.paths.secret.unlink()
    assert _start(tmp_path).secret == ""


def test_a_missing_campaign_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="no campaign here"):
        open_campaign(tmp_path / "nowhere")


def test_a_damaged_campaign_file_is_one_line(tmp_path: Path) -> None:
    campaign = _start(tmp_path)
    campaign.paths.campaign_json.write_text("{")
    with pytest.raises(StoreError, match=r"campaign\.json"):
        open_campaign(campaign.paths.root)

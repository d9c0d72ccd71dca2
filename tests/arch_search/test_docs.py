"""The pages in docs/ name what there is: tables, endings, commands, settings, files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from arch_search.cli import _parser
from arch_search.settings import config_to_json, load_config
from cognition_db.records import Ending
from slurm import advice

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
STUCK = (REPOSITORY / "docs" / "when_something_is_stuck.md").read_text()
CLUSTER = (REPOSITORY / "docs" / "on_your_cluster.md").read_text()


def test_the_page_has_every_job_state_and_pending_reason_as_the_program_has_it() -> None:
    table = STUCK.partition("<!-- slurm.advice: begin -->\n")[2].partition("<!-- slurm.advice: end -->")[0]
    assert table.strip() == advice.markdown().strip(), "put the output of python -m slurm.advice between the marks"


def test_the_page_says_how_every_training_can_end() -> None:
    rows = re.findall(r"^\| (\w+) \|", STUCK, flags=re.MULTILINE)
    assert set(get_args(Ending)) <= set(rows)


def test_every_site_profile_is_in_the_table_of_profiles() -> None:
    profiles = {path.stem for path in (REPOSITORY / "hydra_conf" / "slurm").glob("*.yaml")} - {"local", "inline"}
    assert profiles == set(re.findall(r"^\| `(\w+)` \| ", CLUSTER, flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_setting_named_on_a_page_exists(page: Path) -> None:
    known = set(_keys(config_to_json(load_config(["slurm=cluster"]))))
    named = re.findall(r"\b((?:slurm|llm|stage|campaign|admission|data)(?:\.[a-z_]+)+)\b", page.read_text())
    settings = {one for one in named if one != "slurm.advice" and not one.startswith("slurm.extra_sbatch.")}
    assert settings
    assert not [one for one in settings if one not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_link_of_a_page_exists(page: Path) -> None:
    text = page.read_text()
    commands = next(action for action in _parser()._actions if action.dest == "command").choices
    assert commands is not None
    named = set(re.findall(r"\barch-search ([a-z]+)\b", text))
    assert named
    assert named <= set(commands)
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link


def test_the_readme_leads_to_every_page() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert all(f"docs/{page.name}" in readme for page in PAGES)


def _keys(data: dict[str, object], prefix: str = "") -> list[str]:
    found = []
    for key, value in data.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, dict):
            found += _keys(value, f"{prefix}{key}.")
    return found

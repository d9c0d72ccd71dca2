"""A campaign run again from its recorded calls gives the same archive, whatever the order in which answers came."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "agents"))
from bad_server import bad_server
from recorded_server import recorded_way
from small_campaign import arch_search, archive

from arch_search.agents.call_log import Call, read_calls
from cognition_db.experience.archive import ArchiveContents, ordered
from cognition_db.records import canonical_json, to_json

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
CAMPAIGN = (
    "campaign=smoke", "slurm=inline", "campaign.generations=2", "campaign.baselines=[]", "campaign.tries_per_slot=3",
    "campaign.seeds_per_candidate=1", "campaign.slots.grammar_edit=3", "campaign.slots.grammar_program=0",
    "campaign.slots.mutation=0", "campaign.slots.placebo=0",
)  # fmt: skip
# of the machine and the hour, not of the search
APART = {"seconds", "cpu_s", "wall_s", "step_s", "started_unix", "peak_memory_mb", "fencing_token"}


def content(contents: ArchiveContents) -> str:
    """Everything the archive holds, to the last bit, without what tells time, memory and process."""
    return canonical_json(without_times(to_json(ordered(contents))))


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: one for key, one in value.items() if key not in APART}
        return {key: without_times(one) for key, one in kept.items() if kept.get("name") not in APART}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def calls(cwd: Path) -> dict[str, Call]:
    return {call.key: call for call in read_calls(cwd / "campaigns" / "smoke-001" / "calls.jsonl")}


def test_a_replayed_campaign_asks_the_same_and_ends_with_the_same_archive(tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    first.mkdir()
    again.mkdir()
    with bad_server(recorded_way(longest_s=1.0, seed=5)) as server:
        live = ("llm=endpoint", f"llm.base_url={server.endpoint.base_url}", "llm.parallel_requests=4")
        asked = arch_search("run", *CAMPAIGN, *live, cwd=first)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    folder = first / "campaigns" / "smoke-001"
    replay = ("llm=recorded", f"llm.recording={folder}", "llm.parallel_requests=1")
    replayed = arch_search("run", *CAMPAIGN, *replay, f"campaign.secret_from={folder}/driver/secret", cwd=again)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr

    one, other = calls(first), calls(again)
    assert {key: one[key].prompt_sha256 for key in one} == {key: other[key].prompt_sha256 for key in other}
    assert list(one) != list(other), "the answers came in the same order, so that nothing was tried"
    assert content(archive(again)) == content(archive(first))

    changed = arch_search("run", *CAMPAIGN, *replay, "roles.researcher.temperature=0.1", cwd=tmp_path)
    assert changed.returncode == 1
    assert "the prompt is another than in" in changed.stderr
    assert len(changed.stderr.strip().splitlines()) == 1

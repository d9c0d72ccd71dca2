"""A whole campaign against a model server that misbehaves: it ends, and everything that went wrong is counted."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "agents"))
from bad_server import ALL, Misbehaviour, bad_server
from small_campaign import arch_search, archive

from arch_search.campaign import open_campaign
from arch_search.integrity import check_campaign

pytestmark = pytest.mark.slow
# some of each kind of trouble that is over at the next attempt
PASSING = ("http_500", "http_429", "no_choices", "disconnect_in_the_body", "deep_answer")
SMALL = (
    "campaign=smoke", "slurm=inline", "llm=endpoint", "campaign.generations=1", "campaign.baselines=[]",
    "campaign.slots.grammar_edit=2", "campaign.slots.grammar_program=0", "campaign.slots.whole_module=2",
    "campaign.slots.mutation=0", "campaign.slots.placebo=0", "campaign.tries_per_slot=12",
)  # fmt: skip


def named(*names: str) -> list[Misbehaviour]:
    return [way for way in ALL if way.name in names]


def test_a_campaign_stops_at_a_dead_server_and_ends_with_one_that_talks_nonsense(tmp_path: Path) -> None:
    with bad_server(*named("http_503")) as dead:
        stopped = arch_search("run", *SMALL, f"llm.base_url={dead.endpoint.base_url}", "llm.retries=1", cwd=tmp_path)
    assert stopped.returncode == 1
    assert len(stopped.stderr.strip().splitlines()) == 1
    assert "HTTP 503" in stopped.stderr

    nonsense = [way for way in ALL if way.end != "no answer"]
    ways = [one for index, way in enumerate(nonsense) for one in (way, *named(*PASSING[index : index + 1]))]
    with bad_server(*ways) as server:
        answer = arch_search("run", *SMALL, f"llm.base_url={server.endpoint.base_url}", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "\x1b" not in answer.stdout + answer.stderr

    contents, asked = archive(tmp_path), [one for one in archive(tmp_path).tries if one.proposal.generation == 1]
    refused = [one for one in asked if one.candidate is None]
    reasons = Counter(verdict.check for one in refused for verdict in one.verdicts if verdict.refuses)
    assert sum(reasons.values()) == len(refused) >= 12
    assert {"program", "reply", "repair"} <= set(reasons)
    assert all(one.ending == "finished" for one in contents.evaluations)
    report = (tmp_path / "campaigns" / "smoke-001" / "report.html").read_text(encoding="utf-8")
    assert "the model sent an empty reply" in report
    assert check_campaign(open_campaign(tmp_path / "campaigns" / "smoke-001")) == []

"""A campaign of the second domain, as a user runs it: nothing but its domain knows what it is about."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import arch_search, archive

from arch_search.campaign import open_campaign
from arch_search.domains import domain_named
from arch_search.integrity import check_campaign

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("feed_forward_campaign"),
]  # what its tests share takes long to make
DOMAIN = domain_named("feed_forward")
# replies of Qwen2.5-Coder-1.5B-Instruct to the prompts of this domain
RECORDING = Path(__file__).parents[1] / "data" / "recorded_feed_forward.jsonl"
FEED_FORWARD = (
    "campaign=smoke", "domain=feed_forward", "slurm=inline", "llm=recorded", f"llm.recording={RECORDING}",
    "campaign.seeds_per_candidate=1", "campaign.reference_seeds=1", "campaign.slots.method_splice=2",
    "campaign.generations=1", "campaign.tries_per_slot=2", "campaign.baselines=[gelu,relu_squared]",
    # the recording has replies of the Researcher and the Engineer alone
    "roles.judge_enabled=false", "roles.analyst_enabled=false",
)  # fmt: skip
OF_ATTENTION = re.compile(r"delta|attention|mixer|recall(?!\.)", re.IGNORECASE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which one campaign ran to its end."""
    cwd = tmp_path_factory.mktemp("feed-forward")
    answer = arch_search("run", *FEED_FORWARD, cwd=cwd)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return cwd


def test_reference_baselines_and_mutants_are_trained_beside_the_mixer_and_matched(finished: Path) -> None:
    contents = archive(finished)
    assert all(one.ending == "finished" for one in contents.evaluations), [one.cause for one in contents.evaluations]
    assert all(one.score("recall_accuracy") is None for one in contents.evaluations)
    names = [one.name for one in contents.candidates if one.arm == "baseline"]
    assert names == ["swiglu", "gelu", "relu_squared"]
    mutants = [one for one in contents.candidates if one.arm == "mutate"]
    target = contents.candidates[0].parameter_count
    ours = [one for one in contents.candidates if one.arm == "baseline"] + mutants
    assert all(abs(one.parameter_count / target - 1) < 0.005 for one in ours)
    assert len(mutants) == 1
    assert {one.id for one in ours} <= {one.task.candidate_id for one in contents.evaluations}
    assert check_campaign(open_campaign(finished / "campaigns" / "smoke-001")) == []


def test_replies_of_the_model_become_programs_or_counted_reasons(finished: Path) -> None:
    contents = archive(finished)
    written = [one for one in contents.tries if one.proposal.arm == "evolve"]
    assert {one.proposal.rung for one in written} == {"method_splice", "whole_module"}
    assert all(one.proposal.model.startswith("qwen2.5-coder-1.5b") for one in written)
    assert all(one.candidate or any(verdict.refuses for verdict in one.verdicts) for one in written)
    assert any(one.candidate for one in written)


def test_the_report_does_not_speak_of_another_domain(finished: Path) -> None:
    text = (finished / "campaigns" / "smoke-001" / "report.html").read_text()
    said = html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)))
    said = re.sub(r"^stage\.recall\..*$", "", said, flags=re.MULTILINE)  # settings of the stage, which has the probe
    assert "swiglu" in said
    assert not OF_ATTENTION.search(said), OF_ATTENTION.findall(said)


def test_a_campaign_keeps_its_domain(finished: Path) -> None:
    folder = finished / "campaigns" / "smoke-001"
    answer = arch_search("run", *FEED_FORWARD, "domain.name=linear_attention", f"campaign.dir={folder}", cwd=finished)
    assert answer.returncode == 2
    assert "domain.name: 'feed_forward' there, 'linear_attention' here" in answer.stderr


def test_a_program_of_ones_own_is_checked_by_the_contract_of_the_domain(tmp_path: Path) -> None:
    text = DOMAIN.baseline("gelu")
    (tmp_path / "mine.py").write_text(text + "\n\nclass Other(nn.Module):\n    pass\n")
    answer = arch_search("check", "--class", "GeluLayer", "mine.py", "domain=feed_forward", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout
    off = re.search(r"parameters, ([+-][0-9.]+)% against the reference", answer.stdout)
    assert off is not None
    assert abs(float(off[1])) < 0.5
    unnamed = arch_search("check", "mine.py", "domain=feed_forward", cwd=tmp_path)
    assert unnamed.returncode == 1
    assert "no class FeedForward but 2 public modules (GeluLayer, Other)" in unnamed.stdout

"""A whole campaign that a researcher pauses and steers, undisturbed and killed, with replies of the real model."""

from __future__ import annotations

import shutil
import sys
import time
from importlib import resources
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import SMALL, arch_search, kill, measured, start

from arch_search.agents.call_log import CallLog
from arch_search.campaign import Campaign, open_campaign, start_or_continue
from arch_search.generation import read_steering
from arch_search.integrity import check_campaign
from arch_search.selection.families import family_of
from arch_search.settings import load_config
from cognition_db.records import Candidate, SlotTry, to_json

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("steered_campaign")]  # what its tests share takes long to make
STEERED = (
    *SMALL, "campaign.generations=2", "campaign.baselines=[]", "campaign.seeds_per_candidate=1",
    "campaign.slots.grammar_edit=2", "campaign.slots.grammar_program=1", "campaign.slots.mutation=1",
    "campaign.slots.placebo=0", "roles.analyst_enabled=false", "roles.judge_enabled=false",
    "roles.planner_enabled=false",
)  # fmt: skip
IDEA = "Let the write strength follow how new a key is."
PROMPT = "researcher_grammar_edit"
WORDS = "Change one thing only."


def tick(folder: Path) -> str:
    answer = arch_search("tick", str(folder), cwd=folder.parent)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def steer(folder: Path, *words: str) -> None:
    answer = arch_search("steer", str(folder), *words, cwd=folder.parent)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.fixture(scope="module")
def paused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign that was paused while generation 1 trained, and has come to rest."""
    folder = tmp_path_factory.mktemp("steered") / "c"
    config = load_config([*STEERED, f"campaign.dir={folder}"])
    start_or_continue(config, command=["arch-search", "run"], base=folder.parent).journal.close()
    while not open_campaign(folder).generation(1).steering.exists():
        tick(folder)
    steer(folder, "pause")
    while open_campaign(folder).generations_closed() < 2:
        tick(folder)
    return folder


def pinned_of(campaign: Campaign) -> Candidate:
    """The first program of generation 1 that does not change the decay."""
    reference = campaign.contents().candidates[0]
    first = [one for one in campaign.contents().candidates if one.generation == 1]
    return next(one for one in first if "decay" not in family_of(one.program, reference.program))


def asked_of(folder: Path) -> None:
    """All that the researcher asks of the campaign while it is paused; then it goes on."""
    campaign = open_campaign(folder)
    reference = campaign.contents().candidates[0]
    steer(folder, "ban", "decay")
    steer(folder, "pin", pinned_of(campaign).id, "--every", "2")
    by_hand = folder.parent / "mine.py"
    text = reference.program.replace("F.silu(q), F.silu(k)", "F.elu(q), F.elu(k)")
    assert text != reference.program
    by_hand.write_text(text.replace('"""DeltaNet, the reference', '"""Other features, by hand', 1))
    for words in ((str(by_hand),), ("--idea", IDEA)):
        answer = arch_search("propose", str(folder), *words, cwd=folder.parent)
        assert answer.returncode == 0, answer.stderr
    shipped = (resources.files("arch_search.agents") / "prompts" / f"{PROMPT}.md").read_text()
    (folder.parent / "mine.md").write_text(shipped.replace("\n===\n", f"\n{WORDS}\n===\n"))
    steer(folder, "prompt", PROMPT, str(folder.parent / "mine.md"))
    steer(folder, "resume")


@pytest.fixture(scope="module")
def finished(paused: Path) -> Path:
    assert not (paused / "gen-0002").exists()
    asked_of(paused)
    shutil.copytree(paused, paused.with_name("killed"))
    answer = arch_search("run", str(paused), cwd=paused.parent)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return paused


def tries_of(folder: Path, generation: int) -> list[SlotTry]:
    return [one for one in open_campaign(folder).contents().tries if one.proposal.generation == generation]


def test_a_paused_campaign_finishes_what_trains_and_begins_nothing_until_it_is_resumed(paused: Path) -> None:
    assert "paused by hand" in tick(paused)
    campaign = open_campaign(paused)
    assert campaign.generations_closed() == 2
    assert len([one for one in campaign.contents().evaluations if one.ending == "finished"]) >= 5
    assert not (paused / "gen-0002").exists()
    words = arch_search("status", str(paused), cwd=paused.parent).stdout
    assert "stands still paused by hand" in " ".join(words.split())


def test_a_banned_family_is_drawn_no_more(finished: Path) -> None:
    reference = open_campaign(finished).contents().candidates[0]
    later = tries_of(finished, 2)
    assert {one.proposal.method for one in later} != {""}
    assert not any(one.proposal.method == "decay" for one in later)
    admitted = [one.candidate for one in later if one.candidate and one.candidate.arm != "placebo"]
    assert admitted
    assert not any("decay" in family_of(one.program, reference.program) for one in admitted)


def test_the_pinned_parent_is_that_of_every_second_slot_and_the_tries_say_so(finished: Path) -> None:
    parent = pinned_of(open_campaign(finished)).id
    searched = [one.proposal for one in tries_of(finished, 2) if one.proposal.arm in ("evolve", "mutate")]
    even = [one for one in searched if one.slot % 2 == 0]
    assert even
    assert {one.parents for one in even} == {(parent,)}
    assert all(one.writing and f"parent {parent} pinned (request 3)" in one.writing.steering for one in even)


def test_a_program_by_hand_is_checked_and_trained_like_the_others(finished: Path) -> None:
    [tried] = [one for one in tries_of(finished, 2) if one.proposal.arm == "hand"]
    assert tried.candidate is not None
    assert tried.candidate.motivation.startswith("Other features, by hand")
    assert {one.check for one in tried.verdicts} >= {"causality", "cost"}
    runs = [
        one for one in open_campaign(finished).contents().evaluations if one.task.candidate_id == tried.candidate.id
    ]
    assert [(one.task.seed, one.ending) for one in runs] == [(0, "finished")]
    shown = arch_search("show", str(finished), tried.candidate.id, cwd=finished.parent).stdout
    assert "program by hand (request 4)" in shown
    assert "steered by hand" in (finished / "report.html").read_text().lower()


def test_the_idea_and_the_prompt_by_hand_are_what_the_model_was_asked(finished: Path) -> None:
    campaign = open_campaign(finished)
    log = CallLog(campaign.paths.calls, campaign.paths.text)
    prompts = {call.key: log.text(call.prompt_sha256) or "" for call in log.calls()}
    [gift] = read_steering(campaign.generation(2)).ideas
    slot = [one.proposal for one in tries_of(finished, 2) if one.proposal.slot == gift.slot]
    assert all(one.writing and one.writing.origin == "hand" and one.writing.idea == IDEA for one in slot)
    assert {key.split("/")[1] for key, text in prompts.items() if IDEA in text} == {f"s{gift.slot:03d}"}
    edits = {one.proposal.slot for one in tries_of(finished, 2) if one.proposal.rung == "grammar_edit"}
    reworded = {int(key.split("/")[1][1:]) for key, text in prompts.items() if WORDS in text}
    assert reworded == edits
    assert not any(WORDS in text for key, text in prompts.items() if key.startswith("g0001/"))


def test_fsck_finds_a_steered_campaign_clean_and_names_a_changed_request(finished: Path) -> None:
    assert check_campaign(open_campaign(finished)) == []
    file = finished / "steering" / "0002-ban.json"
    good = file.read_text()
    try:
        file.write_text(good.replace("decay", "values"))
        assert any("0002-ban.json" in one.what + one.where for one in check_campaign(open_campaign(finished)))
    finally:
        file.write_text(good)


def test_killed_while_it_takes_requests_in_it_comes_to_the_same_proposals_and_measurements(finished: Path) -> None:
    killed = finished.with_name("killed")
    for mark in ("gen-0002/steering.json", "prompts", "gen-0002/slots"):
        driver = start("run", str(killed), cwd=killed.parent)
        until = time.monotonic() + 300
        while driver.poll() is None and not (killed / mark).exists() and time.monotonic() < until:
            time.sleep(0.005)
        assert (killed / mark).exists(), (killed.parent / "out.txt").read_text()[-2000:]
        kill(driver)
    assert arch_search("run", str(killed), cwd=killed.parent).returncode == 0
    one, other = open_campaign(finished).contents(), open_campaign(killed).contents()
    assert [to_json(tried.proposal) for tried in one.tries] == [to_json(tried.proposal) for tried in other.tries]
    assert measured(one) == measured(other)

"""Requests of a researcher: what is refused at once, what is fixed when a generation is opened, what is drawn then."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import SMALL

from arch_search.agents import prompt_files
from arch_search.campaign import Campaign, start_or_continue
from arch_search.cli import main
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.drawing import Drawn, draw
from arch_search.driver import Driver
from arch_search.errors import CampaignError
from arch_search.generation import SlotPlan, open_slots, plans_of, read_steering
from arch_search.integrity import check_campaign
from arch_search.lease import driver_lease
from arch_search.opening import fixed_steering
from arch_search.proposals import mutation
from arch_search.proposals.registry import BUILT_IN, BY_HOOK
from arch_search.protocols import ModelClient
from arch_search.selection.families import family_of
from arch_search.selection.pool import ParentChoice
from arch_search.settings import load_config
from arch_search.steered import excluded, verdict_on
from arch_search.steering import Steering
from arch_search.steering_files import paused_words, place_prompts, read_requests
from arch_search.stopping import StopWatch
from cognition_db.experience.archive import ArchiveContents
from cognition_db.experience.files import write_atomic
from cognition_db.experience.journal import read
from cognition_db.records import Candidate, Proposal, SlotTry, candidate_id, canonical_json, to_json

REFERENCE = Candidate(
    id=candidate_id(SEED_PROGRAM), program=SEED_PROGRAM, class_name="DeltaNet", name="deltanet", arm="baseline",
    rung="copy", generation=0, slot=0, parents=(), motivation="", parameter_count=1,
)  # fmt: skip
HAND = '"""Values pass a filter first."""\nimport torch\n\nclass DeltaNet(torch.nn.Module):\n    pass\n'


def changed(hook: str, parent: Candidate, *, slot: int) -> Candidate:
    """A child of `parent`, by random changes that leave all hooks but `hook` as they are."""
    others = set(BY_HOOK) - {hook}
    draft = mutation.mutate(parent, np.random.default_rng(slot), BUILT_IN, banned=others)
    return replace(
        parent, id=candidate_id(draft.program), program=draft.program, name=f"g1.{slot}-mutate", arm="mutate",
        rung="mutation", generation=1, slot=slot, parents=(parent.id,),
    )  # fmt: skip


VALUES = changed("values", REFERENCE, slot=0)
CHILD = changed("write_strength", VALUES, slot=1)
KEYS = changed("feature_map", REFERENCE, slot=2)
CONTENTS = ArchiveContents(candidates=(REFERENCE, VALUES, CHILD, KEYS))
CHOICES = [ParentChoice(parent=one, references=()) for one in (VALUES, CHILD, KEYS, REFERENCE) * 6]


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    """A campaign of which generation 1 has been proposed, by hand of this test."""
    config = load_config([*SMALL, "campaign.generations=4", "llm.parallel_requests=1", "roles.planner_enabled=false"])
    made = start_or_continue(config, command=["arch-search", "run"], base=tmp_path)
    for candidate in CONTENTS.candidates:
        proposal = Proposal(
            generation=candidate.generation, slot=candidate.slot, attempt=0, arm=candidate.arm, rung=candidate.rung,
            parents=candidate.parents, seed=0, program=candidate.program,
        )  # fmt: skip
        tried = SlotTry(proposal=proposal, verdicts=(), candidate=candidate)
        path = made.generation(candidate.generation).slot_try(candidate.slot, 0)
        write_atomic(path, canonical_json(to_json(tried)).encode())
    return made


def steer(campaign: Campaign, *words: str) -> int:
    return main(["steer", str(campaign.paths.root), *words])


def opened(campaign: Campaign, number: int = 2) -> Steering:
    return fixed_steering(campaign, number, REFERENCE)


def tries_of(campaign: Campaign, steering: Steering, attempts: int = 6) -> list[Drawn]:
    plans = [plan for plan in plans_of(2, campaign.config, steering) if plan.arm in ("evolve", "mutate")]
    return [
        draw(
            2, plan, attempt, config=campaign.config, contents=CONTENTS, choices=CHOICES, reference=REFERENCE,
            steering=steering, toolbox=BUILT_IN,
        )
        for plan in plans
        for attempt in range(attempts)
    ]  # fmt: skip


# ---- what is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ban", "nonsense"), "families are feature_map"),
        (("ban", "deltanet"), "no parent would be left"),
        (("unban", "decay"), "is not banned"),
        (("pin", "0123"), "no candidate '0123'"),
        (("pin", "g1.0-mutate", "--every", "0"), "--every 0"),
        (("unpin", "deltanet"), "is not pinned"),
        (("prompt", "nonsense", "x.md"), "there is no prompt nonsense"),
        (("prompt", "judge"), "either a file"),
        (("prompt", "judge", "--default"), "already"),
        (("prompt", "judge", "none.md"), "no text of a prompt"),
        (("resume",), "not paused"),
    ],
)
def test_a_request_that_makes_no_sense_is_one_line_and_nothing_is_written(
    campaign: Campaign, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert steer(campaign, *words) in (1, 2)
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1
    assert not campaign.paths.steering.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no divider {{ program }}", "needs one line ==="),
        ("You judge.\n===\n{{ program }} {{ weather }}", "weather"),
        ("You judge.\n===\n{{ program.line.one }}", "cannot be filled in"),
        ("You judge.\n===\n{% if program %}", "no template"),
        ("", "a prompt has 1 to"),
    ],
)
def test_a_prompt_that_cannot_be_filled_in_is_refused(
    campaign: Campaign, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "judge.md").write_text(text)
    assert steer(campaign, "prompt", "judge", str(tmp_path / "judge.md")) == 2
    assert said in capsys.readouterr().err
    assert not campaign.paths.steering.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"def f(:", "refused by syntax: line 1"),
        (b"\xff\xfe", "not UTF-8"),
        (b"x = 1\n", "refused by contract"),
        (SEED_PROGRAM.encode(), "refused by duplicate_text"),
        (None, "no such file"),
    ],
)
def test_a_program_that_is_none_or_is_known_is_refused_at_once(
    campaign: Campaign, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_bytes(content)
    assert main(["propose", str(campaign.paths.root), str(file)]) in (1, 2)
    assert said in capsys.readouterr().err
    assert not campaign.paths.steering.exists()


def test_the_same_program_is_not_taken_twice_and_an_idea_needs_words(
    campaign: Campaign, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(HAND)
    folder = str(campaign.paths.root)
    assert main(["propose", folder, str(tmp_path / "mine.py")]) == 0
    assert main(["propose", folder, str(tmp_path / "mine.py")]) == 1
    assert "request 1" in capsys.readouterr().err
    assert main(["propose", folder, "--idea", " \n"]) == 2
    assert main(["propose", folder, "--idea", "x" * 801]) == 2
    assert main(["propose", folder]) == 2


def test_a_ban_that_leaves_nothing_to_change_and_a_ban_of_what_is_pinned_are_refused(
    campaign: Campaign, capsys: pytest.CaptureFixture[str]
) -> None:
    assert steer(campaign, "ban", "grammar_program") == 0
    assert steer(campaign, "ban", "grammar_edit") == 0
    assert steer(campaign, "ban", "mutation") == 1
    assert "no slot could make a program" in capsys.readouterr().err
    assert steer(campaign, "pin", CHILD.id) == 0
    for what in (CHILD.id, VALUES.id, "values"):  # itself, its parent, its family
        assert steer(campaign, "ban", what) == 1
        assert "unpin it first" in capsys.readouterr().err
    assert steer(campaign, "ban", KEYS.id) == 0
    assert steer(campaign, "pin", KEYS.id) == 1
    assert "falls under a ban" in capsys.readouterr().err


def test_once_the_last_generation_is_opened_nothing_more_is_taken(
    campaign: Campaign, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (2, 3, 4):
        opened(campaign, number)
    assert steer(campaign, "ban", "decay") == 1
    assert "last generation (4) is opened" in capsys.readouterr().err
    assert steer(campaign, "pause") == 0


# ---- what holds


def test_a_banned_family_is_neither_drawn_nor_built_on_nor_admitted(campaign: Campaign) -> None:
    assert any(one.assignment and one.assignment.method == "decay" for one in tries_of(campaign, Steering()))
    assert any(one.parent in (VALUES, CHILD) for one in tries_of(campaign, Steering()))
    steer(campaign, "ban", "decay")
    steer(campaign, "ban", "values")
    steering = opened(campaign)
    assert excluded(steering, CONTENTS.candidates, REFERENCE) == {VALUES.id, CHILD.id}
    drawn = tries_of(campaign, steering)
    methods = {one.assignment.method for one in drawn if one.assignment and one.assignment.method}
    assert methods
    assert not methods & {"decay", "values"}
    refused = verdict_on(VALUES.program, steering, REFERENCE)
    assert refused is not None
    assert refused.refuses
    assert verdict_on(KEYS.program, steering, REFERENCE) is None
    for seed in range(20):
        draft = mutation.mutate(REFERENCE, np.random.default_rng(seed), BUILT_IN, banned=steering.banned_families)
        assert not {"decay", "values"} & set(family_of(draft.program, REFERENCE.program))


def test_a_banned_candidate_takes_all_that_came_of_it_along(campaign: Campaign) -> None:
    steer(campaign, "ban", VALUES.id[:8])
    assert excluded(opened(campaign), CONTENTS.candidates, REFERENCE) == {VALUES.id, CHILD.id}


def test_slots_of_a_banned_rung_are_left_out_and_the_others_keep_their_numbers(campaign: Campaign) -> None:
    before = plans_of(2, campaign.config, Steering())
    steer(campaign, "ban", "grammar_program")
    kept = plans_of(2, campaign.config, opened(campaign))
    assert kept == tuple(plan for plan in before if plan.rung != "grammar_program")
    assert len(kept) < len(before)
    # the whole mix is what this rung writes, so a ban of that family closes it as well
    steer(campaign, "unban", "grammar_program")
    steer(campaign, "ban", "mix")
    assert plans_of(3, campaign.config, opened(campaign, 3)) == kept


def test_a_pinned_parent_is_drawn_in_every_or_every_kth_slot_and_the_try_says_so(campaign: Campaign) -> None:
    steer(campaign, "pin", "g1.2-mutate")
    drawn = tries_of(campaign, opened(campaign))
    assert {one.parent for one in drawn} == {KEYS}
    assert all(f"parent {KEYS.id} pinned (request 1)" in one.steering for one in drawn)
    steer(campaign, "pin", KEYS.id, "--every", "2")
    drawn = tries_of(campaign, opened(campaign, 3))
    assert {one.parent for one in drawn if one.plan.slot % 2 == 0} == {KEYS}
    others = [one for one in drawn if one.plan.slot % 2]
    assert others
    assert {one.parent for one in others} != {KEYS}
    assert not any(one.steering for one in others)
    steer(campaign, "unpin", KEYS.id[:6])
    assert not any(one.steering for one in tries_of(campaign, opened(campaign, 4)))


def test_an_idea_goes_to_one_slot_and_those_left_over_to_the_next_generation(campaign: Campaign) -> None:
    folder = str(campaign.paths.root)
    for idea in ("Filter keys.", "Gate\nvalues.", "Two memories."):
        assert main(["propose", folder, "--idea", idea]) == 0
    steering = opened(campaign)
    assert [(one.slot, one.text) for one in steering.ideas] == [(0, "Filter keys."), (1, "Gate values.")]
    for one in tries_of(campaign, steering):
        assert one.assignment is None or one.assignment.plan == ("Filter keys.", "Gate values.")[one.plan.slot]
    assert [one.text for one in opened(campaign, 3).ideas] == ["Two memories."]
    assert opened(campaign, 4).ideas == ()


def test_a_program_by_hand_has_one_try_at_a_slot_of_its_own_behind_the_others(
    campaign: Campaign, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(HAND)
    assert main(["propose", str(campaign.paths.root), str(tmp_path / "mine.py")]) == 0
    steering, own = opened(campaign), len(plans_of(2, campaign.config, Steering()))
    assert plans_of(2, campaign.config, steering)[-1] == SlotPlan(own, "hand", "hand")
    assert steering.program_of(own).text == HAND
    refused = SlotTry(
        proposal=Proposal(generation=2, slot=own, attempt=0, arm="hand", rung="hand", parents=(), seed=0),
        verdicts=(), candidate=None,
    )  # fmt: skip
    wanting = open_slots(2, [refused], campaign.config, steering)
    assert own not in [plan.slot for plan, _ in wanting]
    assert opened(campaign, 3).programs == ()


def test_a_prompt_by_hand_is_named_by_the_tries_that_are_asked_with_it(campaign: Campaign, tmp_path: Path) -> None:
    shipped = (resources.files("arch_search.agents") / "prompts" / "researcher_grammar_edit.md").read_text()
    (tmp_path / "mine.md").write_text(shipped.replace("\n===\n", "\nOne thing only.\n===\n"))
    assert steer(campaign, "prompt", "researcher_grammar_edit", str(tmp_path / "mine.md")) == 0
    named = {one.plan.rung for one in tries_of(campaign, opened(campaign)) if one.steering}
    assert named == {"grammar_edit"}


def test_a_prompt_by_hand_holds_from_the_next_generation_on_and_back(campaign: Campaign, tmp_path: Path) -> None:
    text = "You mark programs.\n===\n{{ program }} {{ motivation }}\n"
    (tmp_path / "mine.md").write_text(text)
    assert steer(campaign, "prompt", "judge", str(tmp_path / "mine.md")) == 0
    place_prompts(campaign, 1)
    assert prompt_files.current("judge", campaign.paths.prompts) == prompt_files.shipped("judge")
    opened(campaign)
    place_prompts(campaign, 2)
    assert prompt_files.current("judge", campaign.paths.prompts).system == "You mark programs."
    assert steer(campaign, "prompt", "judge", "--default") == 0
    opened(campaign, 3)
    place_prompts(campaign, 3)
    assert prompt_files.current("judge", campaign.paths.prompts) == prompt_files.shipped("judge")
    place_prompts(campaign, 2)  # a killed driver goes on with what held
    assert prompt_files.current("judge", campaign.paths.prompts).system == "You mark programs."


def test_a_pause_takes_effect_between_two_calls_of_the_model(campaign: Campaign) -> None:
    for number in (0, 1):
        campaign.journal.append("generation-closed", {"generation": number, "archive_sha256": ""})
    said: list[str] = []
    with driver_lease(campaign.paths, lease_s=60) as lease, StopWatch(campaign.paths) as watch:
        driver = Driver(campaign, said.append, lease=lease, watch=watch)
        steer(campaign, "pause")
        assert driver.tick().waiting.startswith("paused by hand (request 1)")
        assert not campaign.generation(2).steering.exists()
        steer(campaign, "resume")
        given, client = [], driver.model.client

        def paused_at_the_first_question() -> ModelClient:
            given.append(client())
            if len(given) == 2:  # the first one is asked for before any slot
                steer(campaign, "pause")
            return given[-1]

        driver.model.client = paused_at_the_first_question  # type: ignore[method-assign]
        for _ in range(3):
            assert driver.tick().waiting.startswith("paused by hand (request 3)")
    assert [call.key for call in driver.call_log.calls()] == ["g0002/s000/t0/researcher"]
    assert len(given) == 2
    assert not campaign.generation(2).slots.exists()
    assert [one.partition(" (")[0] for one in said if "by hand" in one] == [
        "paused by hand", "resumed by hand", "paused by hand",
    ]  # fmt: skip
    kinds = [entry.kind for entry in read(campaign.paths.journal).entries]
    assert [kind for kind in kinds if kind in ("paused", "resumed")] == ["paused", "resumed", "paused"]


# ---- files


def test_what_comes_after_the_opening_of_a_generation_does_not_change_it(campaign: Campaign) -> None:
    steer(campaign, "ban", "decay")
    first = opened(campaign)
    steer(campaign, "ban", "values")
    assert opened(campaign) == first == read_steering(campaign.generation(2))
    assert opened(campaign, 3).banned_families == {"decay", "values"}


def test_a_driver_killed_between_the_record_and_its_acknowledgement_goes_on(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    steer(campaign, "ban", "decay")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(campaign.journal, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(campaign)
    first = read_steering(campaign.generation(2))
    steer(campaign, "ban", "values")
    assert opened(campaign) == first
    path = campaign.generation(2).steering
    path.write_text(path.read_text().replace("decay", "other"))
    with pytest.raises(CampaignError, match="not the one the journal acknowledged"):
        opened(campaign)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("subject", "without the seal"),
        ("name", "holds the request 0001-ban"),
        ("cut", "not JSON"),
        ("body", "no steer"),
    ],
)
def test_a_request_that_was_tampered_with_is_left_out_and_named(campaign: Campaign, what: str, said: str) -> None:
    steer(campaign, "ban", "decay")
    file = campaign.paths.steering / "0001-ban.json"
    text = file.read_text()
    if what == "name":
        file.rename(file.with_name("0001-pin.json"))
    else:
        file.write_text({"subject": text.replace("decay", "values"), "cut": text[:-9], "body": "{}"}[what])
    found = read_requests(campaign)
    assert found.valid == ()
    assert said in found.refused[0]
    steering = opened(campaign)
    assert steering.bans == ()
    assert said in steering.refused[0]
    assert any(said in problem.what for problem in check_campaign(campaign))


def test_a_request_of_another_campaign_is_left_out(campaign: Campaign, tmp_path: Path) -> None:
    other = start_or_continue(campaign.config, command=["arch-search", "run"], base=tmp_path / "other")
    steer(campaign, "pause")
    other.paths.steering.mkdir()
    file = other.paths.steering / "0001-pause.json"
    file.write_bytes((campaign.paths.steering / "0001-pause.json").read_bytes())
    assert "paused by hand (request 1)" in paused_words(campaign)
    assert paused_words(other) == ""


def test_fsck_names_a_request_that_was_taken_in_and_is_gone(campaign: Campaign) -> None:
    steer(campaign, "ban", "decay")
    opened(campaign)
    before = {(one.where, one.what) for one in check_campaign(campaign)}
    file = campaign.paths.steering / "0001-ban.json"
    file.unlink()
    new = {(one.where, one.what) for one in check_campaign(campaign)} - before
    assert [where for where, _ in new] == [str(file)]
    campaign.generation(2).steering.unlink()
    assert any(one.where == str(campaign.generation(2).steering) for one in check_campaign(campaign))


def test_requests_made_at_the_same_time_get_numbers_of_their_own(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    from arch_search import steering_files

    steer(campaign, "ban", "decay")
    names, stale = steering_files._names, [True]

    def seen_late(paths: object) -> object:
        return [] if stale and stale.pop() else names(paths)  # type: ignore[arg-type]

    monkeypatch.setattr(steering_files, "_names", seen_late)
    steering_files.ask(campaign, {"kind": "ban", "of": "family", "subject": "values"})
    assert [one.subject for one in read_requests(campaign).valid] == ["decay", "values"]


def test_steer_alone_lists_what_holds_and_what_waits(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    steer(campaign, "ban", "decay")
    steer(campaign, "ban", "values")
    steer(campaign, "unban", "values")
    steer(campaign, "pause")
    main(["propose", str(campaign.paths.root), "--idea", "Filter \x1b[2J keys."])
    capsys.readouterr()
    assert steer(campaign) == 0
    text = capsys.readouterr().out
    assert "request 1: ban of family decay" in text
    assert "values" not in text
    assert "request 4: pause" in text
    assert "Filter" in text
    assert ", waiting" in text
    assert "\x1b" not in text


def test_a_generation_that_an_older_version_opened_goes_on_unsteered(campaign: Campaign) -> None:
    steer(campaign, "ban", "decay")
    assert opened(campaign, 1) == Steering()
    assert not campaign.generation(1).steering.exists()

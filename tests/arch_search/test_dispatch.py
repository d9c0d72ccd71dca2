from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import SMALL
from test_walltime import campaign_with, hour_each

from arch_search.campaign import Campaign, start_or_continue
from arch_search.dispatch import Dispatcher
from arch_search.generation import packs_of, rounds_of, shards_of
from arch_search.settings import load_config
from cognition_db.experience.files import write_atomic
from cognition_db.records import HIDDEN_SEEDS_FROM, Candidate, Repeats, candidate_id, canonical_json, to_json
from slurm import Evidence, LocalLauncher, Order, Probe, Submission, UnitState, WorkUnit


class NotingLauncher(LocalLauncher):
    """Starts nothing; keeps what it was asked for and what the probe said."""

    def __init__(self) -> None:
        super().__init__(max_parallel=1)
        self.timeouts_min: list[int | None] = []
        self.evidence: dict[str, Evidence] = {}
        self.in_queue = 0  # looks at the queue that will still find something

    def finish(self, submission: Submission) -> bool:
        self.in_queue -= 1
        return self.in_queue < 0

    def submit(self, order: Order) -> Submission:
        self.timeouts_min.append(order.timeout_min)
        return Submission(
            kind="local", name=order.name, comment=order.comment, folder=str(order.folder), submitted_unix=0.0,
            units=tuple(unit.name for unit in order.units),
        )  # fmt: skip

    def states(self, submission: Submission, units: Sequence[WorkUnit], probe: Probe) -> dict[str, UnitState]:
        self.evidence = {unit.name: probe(unit.name) for unit in units}
        return dict.fromkeys(self.evidence, UnitState.ENDED)


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    config = load_config([*SMALL, f"campaign.dir={tmp_path / 'c'}", "campaign.seeds_per_candidate=1"])
    return start_or_continue(config, command=["test"], base=tmp_path)


def candidates(count: int) -> list[Candidate]:
    programs = [f"class DeltaNet{index}: ...\n" for index in range(count)]
    return [
        Candidate(
            id=candidate_id(program), program=program, class_name="DeltaNet", name=f"c{index}", arm="evolve",
            rung="grammar_edit", generation=1, slot=index, parents=(), motivation="", parameter_count=1,
        )
        for index, program in enumerate(programs)
    ]  # fmt: skip


def test_units_are_told_apart_by_their_files_in_one_look(campaign: Campaign) -> None:
    launcher = NotingLauncher()
    paths = campaign.generation(1)
    paths.shards.mkdir(parents=True)
    paths.shard("g0001-u0000", 1).touch()
    paths.unit("g0001-u0001").root.mkdir(parents=True)
    paths.unit("g0001-u0001").heartbeat.write_text("{}")
    dispatcher = Dispatcher(campaign, launcher, lambda text: None)
    assert not dispatcher.advance(1, candidates(4), target_parameters=1, step_s=lambda: None)
    # a unit with its shard is no part of the round
    assert sorted(launcher.evidence) == ["g0001-u0001", "g0001-u0002", "g0001-u0003"]
    beat = launcher.evidence["g0001-u0001"].heartbeat_unix
    assert beat is not None
    assert launcher.evidence["g0001-u0003"] == Evidence(done=False)
    paths.shard("g0001-u0001", 1).touch()
    dispatcher.advance(1, candidates(4), target_parameters=1, step_s=lambda: None)
    assert launcher.evidence["g0001-u0001"].done


def test_a_round_asks_for_the_time_that_finished_trainings_needed(tmp_path: Path) -> None:
    campaign = campaign_with(tmp_path, *hour_each(), settings=("slurm.estimate_time=true",))
    launcher = NotingLauncher()
    dispatcher = Dispatcher(campaign, launcher, lambda text: None)
    for _ in range(3):
        dispatcher.advance(1, candidates(1), target_parameters=1, step_s=lambda: None)
    assert launcher.timeouts_min == [94, 188, 300]


def test_many_lost_units_are_told_in_one_short_line(campaign: Campaign) -> None:
    said: list[str] = []
    dispatcher = Dispatcher(campaign, NotingLauncher(), said.append)
    dispatcher.advance(1, candidates(40), target_parameters=1, step_s=lambda: None)
    lost = next(text for text in said if "without a shard" in text)
    assert "40 units" in lost
    assert "and 35 more" in lost
    assert len(lost) < 200


def test_a_generation_is_cleared_until_nothing_of_it_is_in_a_queue(campaign: Campaign) -> None:
    launcher = NotingLauncher()
    dispatcher = Dispatcher(campaign, launcher, lambda text: None)
    assert dispatcher.clear(1)  # nothing was submitted
    dispatcher = Dispatcher(campaign, launcher, lambda text: None)
    dispatcher.advance(1, candidates(1), target_parameters=1, step_s=lambda: None)
    launcher.in_queue = 2
    assert [dispatcher.clear(1) for _ in range(4)] == [False, False, True, True]
    assert launcher.in_queue == -1  # not asked once more


def test_the_newest_attempt_of_a_unit_is_its_shard(campaign: Campaign) -> None:
    paths = campaign.generation(1)
    paths.shards.mkdir(parents=True)
    for attempt in (2, 10, 9):
        paths.shard("g0001-u0000", attempt).touch()
    (paths.shards / "not-a-shard.h5").touch()
    assert shards_of(paths.shards) == {"g0001-u0000": paths.shard("g0001-u0000", 10)}


def test_repeats_are_a_round_of_their_own_with_attempts_of_its_own(tmp_path: Path) -> None:
    settings = [*SMALL, f"campaign.dir={tmp_path / 'c'}", "campaign.attempts_per_task=1", "slurm.tasks_per_unit=2"]
    campaign = start_or_continue(load_config(settings), command=["test"], base=tmp_path)
    paths, rows, said, launcher = campaign.generation(1), candidates(3), list[str](), NotingLauncher()
    dispatcher = Dispatcher(campaign, launcher, said.append)

    def advance() -> bool:
        return dispatcher.advance(1, rows, target_parameters=1, step_s=lambda: None)

    assert advance()  # nothing starts, so that its units are given up after their one attempt
    first = sorted(launcher.evidence)
    assert first == ["g0001-u0000", "g0001-u0001", "g0001-u0002"]
    repeats = Repeats(candidates=(rows[0].id, rows[2].id), seeds=(HIDDEN_SEEDS_FROM, HIDDEN_SEEDS_FROM + 1))
    write_atomic(paths.repeats, canonical_json(to_json(repeats)).encode())
    launcher.in_queue = 2
    assert not advance()
    assert rounds_of(paths) == (1, 2)
    assert not any("g0001-u0003 lost" in text for text in said)
    assert advance()
    assert sorted(launcher.evidence) == ["g0001-u0003", "g0001-u0004"]
    assert any("g0001-u0003 lost: no shard after 2 attempts" in text for text in said)
    assert not any("running them again" in text for text in said)
    launcher.in_queue = 1
    assert not dispatcher.clear(1)  # what the new round left in the queue is looked for
    both = packs_of(1, rows, campaign.config, repeats=repeats, attempt=1)
    assert [pack.unit for pack in both] == [*first, "g0001-u0003", "g0001-u0004"]
    assert [(task.candidate_id, task.seed) for task in both[3].tasks] == [(rows[0].id, seed) for seed in repeats.seeds]

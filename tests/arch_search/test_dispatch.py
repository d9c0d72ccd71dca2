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
from arch_search.generation import shards_of
from arch_search.settings import load_config
from cognition_db.records import Candidate, candidate_id
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

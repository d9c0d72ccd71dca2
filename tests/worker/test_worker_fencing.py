"""Two supervisors of one unit at once, where no lock keeps them apart: the newer one wins, nothing is overwritten."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arch_search.config import Stage
from arch_search.paths import UnitPaths
from arch_search.worker.claims import claim, is_superseded, publish
from arch_search.worker.handover import take_over
from cognition_db.records import to_json

HELD_BY_ANOTHER = 3
SLOWLY = "time.sleep(0.04)"


@pytest.fixture
def unit(tmp_path: Path) -> UnitPaths:
    (tmp_path / "u").mkdir()
    return UnitPaths(tmp_path / "u")


@pytest.fixture
def long_stage(tiny_stage: Stage) -> Stage:
    return replace(tiny_stage, steps=60, recall=replace(tiny_stage.recall, steps=30))


def test_every_start_takes_the_next_number_of_its_attempt(unit: UnitPaths) -> None:
    names = [claim(unit, attempt=attempt).name for attempt in (1, 1, 2, 1)]
    assert names == ["a1-001", "a1-002", "a2-001", "a1-003"]


def test_the_newest_start_of_the_newest_attempt_owns_the_unit(unit: UnitPaths) -> None:
    starts = [claim(unit, attempt=attempt) for attempt in (1, 2, 2, 1)]
    assert [is_superseded(unit, start) for start in starts] == [True, True, False, True]


def test_a_unit_whose_folder_is_gone_has_no_owner(unit: UnitPaths) -> None:
    start = claim(unit, attempt=1)
    unit.claim(start.name).unlink()
    unit.root.rmdir()
    assert is_superseded(unit, start)


def test_a_name_is_given_once_and_the_first_file_stays(tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "fresh").write_text(text)
        assert publish(tmp_path / "fresh", tmp_path / "there" / "record") is (text == "first")
        assert not (tmp_path / "fresh").exists()
    assert (tmp_path / "there" / "record").read_text() == "first"


def test_a_task_is_handed_over_with_its_checkpoints_and_without_the_rest(unit: UnitPaths) -> None:
    old = take_over(unit, "k", claim(unit, attempt=1))
    for path in (old.checkpoint("recall"), old.recall_answers, old.stop, old.progress):
        path.write_text("x")
    new = take_over(unit, "k", claim(unit, attempt=1))
    assert {path.name for path in new.root.iterdir()} == {"recall.pt", "recall_answers.i8"}
    assert not old.root.exists()


def test_a_link_that_a_child_planted_is_handed_over_unread(unit: UnitPaths, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    old = take_over(unit, "k", claim(unit, attempt=1))
    old.checkpoint("recall").symlink_to(tmp_path / "secret")
    os.mkfifo(old.recall_answers)
    new = take_over(unit, "k", claim(unit, attempt=1))
    assert new.checkpoint("recall").is_symlink()
    assert not new.recall_answers.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("attempt", [1, 2])
def test_of_two_supervisors_without_a_lock_the_newer_finishes_and_the_older_leaves(
    bench: Callable[..., Any], long_stage: Stage, attempt: int
) -> None:
    made = bench("pass", SLOWLY).with_stage(long_stage)
    expected = made.evaluation(0)
    older = made.start_until_step(12, phase="language_model", index=1)
    made.unit(1).lock.unlink()  # as where a lock holds on one machine only
    pack = made.manifest.packs[1]
    again = replace(pack, attempt=attempt, tasks=tuple(replace(task, attempt=attempt) for task in pack.tasks))
    second = made.rewritten(replace(made.manifest, packs=(made.manifest.packs[0], again)))
    newer = second.start_until_step(20, phase="language_model", index=1)
    assert older.wait(timeout=60) == HELD_BY_ANOTHER
    assert newer.wait(timeout=120) == 0
    (found,) = second.evaluations(1)
    assert found.task.attempt == attempt
    assert found.ending == "finished", found.cause
    assert found.resumed_from_step >= 30
    assert found.curve_loss == expected.curve_loss
    assert found.score("heldout_loss") == expected.score("heldout_loss")
    assert len(list(made.generation.shards.glob("g1-u1-*"))) == 1
    assert not made.unit(1).task(again.tasks[0].key).exists()


@pytest.mark.slow
def test_a_late_start_of_an_older_attempt_leaves_at_once_and_changes_nothing(bench: Callable[..., Any]) -> None:
    made = bench()
    pack = made.manifest.packs[0]
    again = replace(pack, attempt=2, tasks=tuple(replace(task, attempt=2) for task in pack.tasks))
    newer = made.rewritten(replace(made.manifest, packs=(again,)))
    assert newer.run().returncode == 0
    before = {path.name: path.read_bytes() for path in made.generation.shards.iterdir()}
    assert made.rewritten(made.manifest).run().returncode == HELD_BY_ANOTHER
    assert {path.name: path.read_bytes() for path in made.generation.shards.iterdir()} == before


@pytest.mark.slow
def test_an_evaluation_that_stands_is_never_replaced(
    bench: Callable[..., Any], long_stage: Stage, finished_bench: Any
) -> None:
    made = bench(SLOWLY).with_stage(long_stage)
    process = made.start_until_step(20, phase="language_model")
    # another start was first, without this one having seen it
    standing = json.loads(finished_bench.unit().evaluation(key_of(finished_bench)).read_text())
    task = to_json(made.manifest.packs[0].tasks[0])
    text = json.dumps({**standing, "task": task, "cause": "by another start", "ending": "crashed"})
    record = made.unit().evaluation(key_of(made))
    record.write_text(text)
    assert process.wait(timeout=60) == 0
    (found,) = made.evaluations()
    assert found.cause == "by another start"
    assert record.read_text() == text


def key_of(made: Any) -> str:
    key: str = made.manifest.packs[0].tasks[0].key
    return key

"""Merging: one evaluation per expected task, the same in any order; every loser and every bad file is named."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cognition_db.experience.merge import merge
from cognition_db.experience.shard import write_shard
from cognition_db.records import Evaluation

Make = Callable[..., Evaluation]


def test_merge_names_every_missing_task(tmp_path: Path, make_evaluation: Make) -> None:
    first, second = make_evaluation(seed=0), make_evaluation(seed=1)
    write_shard(tmp_path / "a.h5", [first], generation=0)
    report = merge([tmp_path / "a.h5"], [first.task, second.task])
    assert report.evaluations == (first,)
    assert report.missing == (second.task.key,)


def test_merge_of_no_shards_misses_everything(make_evaluation: Make) -> None:
    assert merge([], [make_evaluation().task]).missing == (make_evaluation().task.key,)


@pytest.mark.parametrize("late", [0, 2])
def test_only_the_expected_attempt_counts_even_when_another_finished(
    tmp_path: Path, make_evaluation: Make, late: int
) -> None:
    current = make_evaluation(attempt=1, ending="crashed", cause="exit code 1")
    other = make_evaluation(attempt=late)
    write_shard(tmp_path / "u-a1.h5", [current], generation=0)
    write_shard(tmp_path / f"u-a{late}.h5", [other], generation=0)
    report = merge(sorted(tmp_path.iterdir()), [current.task])
    assert report.evaluations == (current,)
    assert report.superseded == (f"{other.task.key} attempt {late} in u-a{late}.h5",)


def test_a_superseded_attempt_alone_leaves_its_task_missing(tmp_path: Path, make_evaluation: Make) -> None:
    write_shard(tmp_path / "u-a0.h5", [make_evaluation(attempt=0)], generation=0)
    report = merge([tmp_path / "u-a0.h5"], [make_evaluation(attempt=1).task])
    assert report.evaluations == ()
    assert report.missing == (make_evaluation().task.key,)


def test_an_evaluation_nobody_expects_is_left_out_and_named(tmp_path: Path, make_evaluation: Make) -> None:
    write_shard(tmp_path / "a.h5", [make_evaluation(seed=5)], generation=0)
    report = merge([tmp_path / "a.h5"], [])
    assert report.evaluations == ()
    assert report.superseded == (f"{make_evaluation(seed=5).task.key} attempt 0 in a.h5",)


def test_of_two_writers_of_one_attempt_the_first_to_start_counts(tmp_path: Path, make_evaluation: Make) -> None:
    early, late = make_evaluation(started_unix=10.0, host="z"), make_evaluation(started_unix=11.0, host="a")
    write_shard(tmp_path / "a.h5", [late], generation=0)
    write_shard(tmp_path / "b.h5", [early], generation=0)
    report = merge([tmp_path / "a.h5", tmp_path / "b.h5"], [early.task])
    assert report.evaluations == (early,)
    assert report.superseded == (f"{late.task.key} attempt 0 in a.h5",)


def test_the_order_of_the_shards_and_of_the_tasks_does_not_matter(tmp_path: Path, make_evaluation: Make) -> None:
    evaluations = [make_evaluation(seed=seed, host=host) for seed in (2, 0, 1) for host in ("x", "y")]
    for start in (0, 2, 4):
        write_shard(tmp_path / f"{start}.h5", evaluations[start : start + 2], generation=0)
    (tmp_path / "bad.h5").write_bytes(b"garbage")
    paths, tasks = list(tmp_path.iterdir()), [item.task for item in evaluations]
    rng = random.Random(0)
    reports = {repr(merge(rng.sample(paths, 4), rng.sample(tasks, 6))) for _ in range(3)}
    assert len(reports) == 1
    assert len(merge(paths, tasks).evaluations) == 3


def test_bad_shards_are_quarantined_with_the_reason_and_the_rest_is_merged(
    tmp_path: Path, make_evaluation: Make
) -> None:
    good = make_evaluation()
    write_shard(tmp_path / "b.h5", [good], generation=0)
    whole = (tmp_path / "b.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.h5").write_bytes(b"")
    report = merge(sorted(tmp_path.iterdir()), [good.task, replace(good.task, seed=1)])
    assert report.evaluations == (good,)
    assert report.missing == (replace(good.task, seed=1).key,)
    assert [path.name for path, _ in report.quarantined] == ["a.h5", "c.h5"]
    assert all(path.name in reason and "\n" not in reason for path, reason in report.quarantined)

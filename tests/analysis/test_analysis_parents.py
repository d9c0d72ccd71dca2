"""A program against its own parent, in the seeds of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from arch_search.analysis.arms import by_arm
from arch_search.analysis.parents import against_parents
from arch_search.analysis.statistics import Comparison, noise_of, standings
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Candidate, Evaluation

Invent = Callable[..., Any]
SD = 0.01


@pytest.fixture
def family(candidate_of: Invent, run_of: Invent) -> Callable[[Mapping[str, float]], ArchiveContents]:
    """The reference, a parent 0.1 better, and children of that parent with the given true gains over it."""

    def made(gains: Mapping[str, float]) -> ArchiveContents:
        reference = candidate_of("deltanet", arm="baseline", rung="copy", generation=0)
        parent = candidate_of("parent", slot=1, parents=(reference.id,))
        children = [
            candidate_of(name, generation=2, slot=slot, parents=(parent.id,)) for slot, name in enumerate(gains)
        ]
        truth = {reference.id: 0.5, parent.id: 0.6}
        truth |= {child.id: 0.6 + gain for child, gain in zip(children, gains.values(), strict=True)}
        rng = np.random.default_rng(5)
        runs = [
            run_of(one, seed, recall=truth[one.id] + 0.2 * seed + rng.normal(scale=SD))  # the seed's part is large
            for one in (reference, parent, *children)
            for seed in range(4)
        ]
        return ArchiveContents(candidates=(reference, parent, *children), evaluations=tuple(runs))

    return made


def compared_of(contents: ArchiveContents) -> dict[str, Comparison]:
    return against_parents(contents, reference_id=contents.candidates[0].id, metric="recall_accuracy", confidence=0.95)


def named(contents: ArchiveContents, name: str) -> Candidate:
    return next(one for one in contents.candidates if one.name == name)


def test_a_child_is_compared_with_its_parent_and_not_with_the_reference(
    family: Callable[[Mapping[str, float]], ArchiveContents],
) -> None:
    contents = family({"better": 0.05, "same": 0.0, "worse": -0.05})
    compared = compared_of(contents)
    better, same, worse = (compared[named(contents, name).id] for name in ("better", "same", "worse"))
    assert better.low > 0
    assert better.improvement == pytest.approx(0.05, abs=3 * SD)
    assert same.low < 0 < same.high
    assert worse.high < 0  # though it is better than the reference
    assert compared[named(contents, "parent").id].improvement == pytest.approx(0.1, abs=3 * SD)


def test_the_report_counts_whole_intervals_above_zero(
    family: Callable[[Mapping[str, float]], ArchiveContents], try_of: Invent
) -> None:
    contents = family({"a": 0.06, "b": 0.0, "c": -0.06, "d": 0.08})
    asked = tuple(try_of(one, generation=one.generation, slot=one.slot) for one in contents.candidates[1:])
    contents = replace(contents, tries=asked)
    how = {"reference_id": contents.candidates[0].id, "metric": "recall_accuracy"}
    rows = standings(contents, confidence=0.95, **how)
    (group,) = by_arm(contents, rows, parents=compared_of(contents), noise=noise_of(contents, **how), confidence=0.95)
    share = group.over_parent
    assert (share.count, share.total) == (3, 5)  # the parent itself is one of them
    assert share.low < 0.6 < share.high


def test_a_failed_seed_of_child_or_parent_takes_it_out(
    family: Callable[[Mapping[str, float]], ArchiveContents],
) -> None:
    contents = family({"a": 0.06, "b": 0.06})
    lost = named(contents, "a").id

    def failing(one: Evaluation, whose: str) -> Evaluation:
        fails = one.task.candidate_id == whose and one.task.seed == 1
        return replace(one, ending="crashed", cause="invented", scores=()) if fails else one

    runs = tuple(failing(one, lost) for one in contents.evaluations)
    compared = compared_of(replace(contents, evaluations=runs))
    assert lost not in compared
    assert named(contents, "b").id in compared
    parent = named(contents, "parent").id
    runs = tuple(failing(one, parent) for one in contents.evaluations)
    assert compared_of(replace(contents, evaluations=runs)) == {}


def test_of_equal_programs_few_are_called_better(
    family: Callable[[Mapping[str, float]], ArchiveContents],
) -> None:
    contents = family({f"same {index}": 0.0 for index in range(200)})
    compared = compared_of(contents)
    children = [compared[one.id] for one in contents.candidates if one.generation == 2]
    # all share one parent, whose luck shifts them together: 2.5 % are expected, far fewer than a fifth must come
    assert len(children) == 200
    assert sum(one.low > 0 for one in children) < 40

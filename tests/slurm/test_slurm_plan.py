"""ArrayPlan: how units become arrays, and how much of them the queue takes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm.errors import SubmitError
from slurm.plan import (
    EMPTY_QUEUE,
    LearnedLimit,
    QueueCount,
    array_size,
    next_count,
    plan_arrays,
    queue_cap,
    waits_for,
)
from slurm.site import SiteLimits
from slurm.units import ArrayJob


def limits(*, max_array_size: int = 1001, max_submit_jobs: int | None = None) -> SiteLimits:
    return SiteLimits(
        cluster="c", version="22.05", max_array_size=max_array_size, accounting=True, min_job_age_s=300,
        max_submit_jobs=max_submit_jobs, submit_source="qos low",
    )  # fmt: skip


def arrays(*job_ids: str) -> list[ArrayJob]:
    return [ArrayJob(job_id=job_id, offset=index, count=1) for index, job_id in enumerate(job_ids)]


@settings(deadline=None)
@given(
    count=st.integers(1, 3000),
    size=st.integers(1, 200),
    submit=st.none() | st.integers(1, 300),
    own=st.integers(0, 300),
)
def test_every_unit_is_in_exactly_one_array_and_no_array_is_above_a_limit(
    count: int, size: int, submit: int | None, own: int
) -> None:
    plan = plan_arrays(count, limits(max_array_size=size, max_submit_jobs=submit), max_parallel=3, max_submitted=own)
    units = [array.offset + index for array in plan.arrays for index in range(array.count)]
    assert units == list(range(count))
    known = [limit for limit in (size, submit, own or None) if limit is not None]
    assert max(array.count for array in plan.arrays) <= min(known)
    assert plan.submitted_at_once <= min([count, *known[1:]])
    assert plan.waves * plan.submitted_at_once >= count


@settings(deadline=None)
@given(
    count=st.integers(1, 400),
    size=st.integers(1, 50),
    submit=st.integers(1, 60),
    foreign=st.lists(st.integers(0, 59), min_size=1, max_size=5),
    leaving=st.lists(st.integers(1, 30), min_size=1, max_size=5),
)
def test_waves_submit_every_unit_once_within_the_limit_while_others_come_and_go(
    count: int, size: int, submit: int, foreign: list[int], leaving: list[int]
) -> None:
    site = limits(max_array_size=size, max_submit_jobs=submit)
    offset = ours = 0
    for turn in range(100 * count):
        others = foreign[turn % len(foreign)] % submit  # at least one is free when nothing of ours is there
        ours = max(0, ours - leaving[turn % len(leaving)])
        while offset < count:
            cap = queue_cap(site, QueueCount(elements=ours + others, ours=ours), max_submitted=0)
            taken = next_count(count - offset, array_size(site, cap), cap, is_idle=ours == 0)
            if not taken:
                break
            assert taken <= size
            assert ours + others + taken <= submit
            offset, ours = offset + taken, ours + taken
        if offset == count:
            return
    raise AssertionError(f"{count - offset} units were never submitted")


def test_a_small_gap_in_the_queue_is_left_open_until_a_quarter_of_an_array_fits() -> None:
    site = limits(max_array_size=10, max_submit_jobs=20)
    for used, expected in ((19, 0), (18, 2), (10, 10)):
        cap = queue_cap(site, QueueCount(elements=used, ours=used), max_submitted=0)
        assert next_count(500, array_size(site, cap), cap, is_idle=False) == expected


def test_the_last_units_do_not_wait_for_a_larger_gap() -> None:
    site = limits(max_array_size=100, max_submit_jobs=100)
    cap = queue_cap(site, QueueCount(elements=98, ours=98), max_submitted=0)
    assert next_count(2, array_size(site, cap), cap, is_idle=False) == 2


def test_the_tightest_limit_is_named() -> None:
    site = limits(max_submit_jobs=50)
    cap = queue_cap(site, QueueCount(elements=45, ours=9), max_submitted=10)
    assert cap is not None
    assert (cap.room, cap.name) == (1, "slurm.max_submitted=10")
    cap = queue_cap(site, QueueCount(elements=50, ours=9), max_submitted=10)
    assert cap is not None
    assert (cap.room, cap.name) == (0, "MaxSubmitJobs=50 (qos low)")


def test_what_a_refusal_showed_limits_the_next_array() -> None:
    learned = LearnedLimit(name="AssocMaxSubmitJobLimit", elements=20, unix=0)
    cap = queue_cap(limits(), QueueCount(elements=15, ours=15), max_submitted=0, learned=learned)
    assert cap is not None
    assert (cap.room, cap.name) == (5, "AssocMaxSubmitJobLimit (about 20)")


def test_without_any_limit_arrays_have_the_size_of_the_site() -> None:
    assert queue_cap(limits(), EMPTY_QUEUE, max_submitted=0) is None
    assert [array.count for array in plan_arrays(2500, limits(), max_parallel=0, max_submitted=0).arrays] == [
        1001,
        1001,
        498,
    ]


def test_a_site_that_takes_nothing_is_refused_with_the_limit() -> None:
    with pytest.raises(SubmitError, match="MaxArraySize=0"):
        plan_arrays(1, limits(max_array_size=0), max_parallel=0, max_submitted=0)
    with pytest.raises(SubmitError, match=r"MaxSubmitJobs=0 \(qos low\)"):
        plan_arrays(1, limits(max_submit_jobs=0), max_parallel=0, max_submitted=0)


def test_a_throttled_array_waits_for_those_in_the_queue() -> None:
    known = arrays("1", "2", "3")
    assert waits_for(known, {"2", "3"}, set(), max_parallel=4, in_queue=6, count=5) == ("2", "3")


def test_an_array_waits_only_for_the_last_one_that_waits_for_all_before_it() -> None:
    known = arrays("1", "2", "3")
    assert waits_for(known, {"1", "2", "3"}, {"2", "3"}, max_parallel=4, in_queue=9, count=5) == ("3",)


def test_an_array_that_keeps_the_throttle_anyhow_waits_for_nothing() -> None:
    assert waits_for(arrays("1"), {"1"}, set(), max_parallel=20, in_queue=15, count=5) == ()
    assert waits_for(arrays("1"), {"1"}, set(), max_parallel=0, in_queue=15, count=500) == ()

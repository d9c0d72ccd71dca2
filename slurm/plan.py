"""ArrayPlan: how any number of work units becomes job arrays within the limits of a site. Pure functions.

MaxArraySize caps the index of an array, so units are cut into arrays that all count from 0 and know their offset.
MaxSubmitJobs counts every element of every array of the user, so what has no room now is submitted later, in waves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slurm.errors import SubmitError
from slurm.site import SiteLimits
from slurm.units import ArrayJob

_LEAST_SHARE = 4  # an array is submitted when there is room for this part of a full one


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedArray:
    """Units `offset` to `offset + count - 1`, as elements 0 to `count - 1` of one array."""

    offset: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayPlan:
    """The arrays of a submission where nothing else is in the queue.

    `throttle`: elements running at once, the %N of every array, 0 for none. `submitted_at_once`: elements of the
    first wave; the rest follows as elements leave the queue.
    """

    arrays: tuple[PlannedArray, ...]
    throttle: int
    submitted_at_once: int

    @property
    def waves(self) -> int:
        """How often something is submitted, where every wave leaves the queue before the next."""
        elements = sum(array.count for array in self.arrays)
        return math.ceil(elements / self.submitted_at_once) if elements else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCount:
    """Jobs in the queue, each element of an array for one: all of this user, and those of slurm.max_submitted."""

    elements: int
    ours: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """The tightest limit: `elements` fit into the queue, of which `room` are free. `name` says what sets it."""

    elements: int
    room: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedLimit:
    """What a refusal showed: more than `elements` of this user did not fit at `unix`. `name`: Slurm's word for it."""

    name: str
    elements: int
    unix: float


EMPTY_QUEUE = QueueCount(elements=0, ours=0)


def plan_arrays(count: int, limits: SiteLimits, *, max_parallel: int, max_submitted: int) -> ArrayPlan:
    """Cut `count` units into arrays.

    Args:
        max_parallel: elements running at once, 0 for no limit of ours.
        max_submitted: elements in the queue at once, 0 for what the site allows.

    Raises:
        SubmitError: job arrays are switched off, or a limit is 0.
    """
    cap = queue_cap(limits, EMPTY_QUEUE, max_submitted=max_submitted)
    size = array_size(limits, cap)
    arrays = tuple(PlannedArray(offset=offset, count=min(size, count - offset)) for offset in range(0, count, size))
    at_once = count if cap is None else min(count, cap.elements)
    return ArrayPlan(arrays=arrays, throttle=max_parallel, submitted_at_once=at_once)


def queue_cap(
    limits: SiteLimits, queue: QueueCount, *, max_submitted: int, learned: LearnedLimit | None = None
) -> Cap | None:
    """What limits the elements in the queue most at present; None where nothing is known to."""
    known = [
        (limits.max_submit_jobs, queue.elements, f"MaxSubmitJobs={limits.max_submit_jobs} ({limits.submit_source})"),
        (limits.max_job_count, queue.elements, f"MaxJobCount={limits.max_job_count}"),
        (max_submitted or None, queue.ours, f"slurm.max_submitted={max_submitted}"),
    ]
    if learned is not None:
        known.append((learned.elements, queue.elements, f"{learned.name} (about {learned.elements})"))
    caps = [
        Cap(elements=limit, room=max(0, limit - used), name=name) for limit, used, name in known if limit is not None
    ]
    return min(caps, key=lambda cap: (cap.room, cap.elements), default=None)


def array_size(limits: SiteLimits, cap: Cap | None) -> int:
    """Elements of a full array; raises SubmitError where there can be none."""
    if limits.max_array_size < 1:
        raise SubmitError("this site has job arrays switched off (MaxArraySize=0)")
    if cap is not None and cap.elements < 1:
        raise SubmitError(f"nothing may be submitted: {cap.name}")
    return limits.max_array_size if cap is None else min(limits.max_array_size, cap.elements)


def next_count(left: int, size: int, cap: Cap | None, *, is_idle: bool) -> int:
    """Elements of the array to submit now; 0 to wait until more of the queue is free.

    Args:
        left: units that are in no array yet.
        size: elements of a full array.
        is_idle: nothing of ours is in the queue; then an array of one element is better than none.
    """
    count = min(left, size)
    if cap is None:
        return count
    least = 1 if is_idle else min(count, max(1, size // _LEAST_SHARE))
    return min(count, cap.room) if cap.room >= least else 0


def waits_for(
    arrays: Sequence[ArrayJob], active: set[str], chained: set[str], *, max_parallel: int, in_queue: int, count: int
) -> tuple[str, ...]:
    """Job ids that an array of `count` elements has to wait for, so that all together keep the throttle.

    Args:
        arrays: those submitted so far, in order.
        active: job ids of those that are in the queue.
        chained: those that wait themselves for all active ones before them.
        in_queue: elements of these arrays in the queue.
    """
    if not max_parallel or in_queue + count <= max_parallel:
        return ()
    found = []
    for array in reversed(arrays):
        if array.job_id in active:
            found.append(array.job_id)
        if array.job_id in chained:
            break
    return tuple(reversed(found))

"""The gate: lets arrays into the queue as far as the limits of the site, of the user and of the settings allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from slurm import site
from slurm.batch import Batch, NoRoomError, RefusedError
from slurm.client import Look, SlurmClient, run_client
from slurm.errors import SubmitError
from slurm.plan import LearnedLimit, QueueCount, array_size, next_count, queue_cap, waits_for
from slurm.refusals import explain
from slurm.states import ArrayRow, Phase
from slurm.units import ArrayJob, Resources
from slurm.waves import Waves

_LEARNED_S = 1800.0  # limits are raised and other jobs end: after this time it is tried again


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One answer of squeue: rows of arrays by job id, how many elements are not over, and how many other jobs."""

    look: Look
    rows: dict[str, list[ArrayRow]]
    elements: Counter[str]
    singles: int

    @property
    def is_whole(self) -> bool:
        """Whether an element that is in no row can be said not to be in the queue."""
        return self.look.problem is None and self.look.answer.whole


def snapshot(look: Look) -> Snapshot:
    rows: dict[str, list[ArrayRow]] = {}
    elements: Counter[str] = Counter()
    for row in look.answer.rows:
        rows.setdefault(row.job_id, []).append(row)
        if row.phase is not Phase.OVER:
            elements[row.job_id] += sum(map(len, row.indices))
    singles = sum(row.phase is not Phase.OVER for row in look.answer.singles)
    return Snapshot(look=look, rows=rows, elements=elements, singles=singles)


@dataclass(slots=True, kw_only=True)
class _InQueue:
    """Jobs in the queue while arrays are being submitted: of the user, of the campaign, of one plan.

    Slurm counts every element of an array as a job.
    """

    elements: int
    ours: int
    mine: int
    active: set[str] = field(default_factory=set)

    def add(self, array: ArrayJob) -> None:
        self.elements += array.count
        self.ours += array.count
        self.mine += array.count
        self.active.add(array.job_id)


class Gate:
    """Submits what has room. A refusal for lack of room is no error: it teaches how much room there is.

    Args:
        max_parallel: elements running at once, 0 for no limit of ours.
        max_submitted: elements of all submissions that this gate has seen in the queue at once, 0 for no limit of ours.
    """

    def __init__(
        self,
        resources: Resources,
        client: SlurmClient,
        *,
        max_parallel: int,
        max_submitted: int,
        clock: Callable[[], float],
    ) -> None:
        self._resources = resources
        self._client = client
        self._max_parallel = max_parallel
        self._max_submitted = max_submitted
        self._clock = clock
        self._limits: site.SiteLimits | None = None
        self._learned: LearnedLimit | None = None
        self._arrays: dict[str, ArrayJob] = {}  # of every submission seen
        self._recent: list[ArrayJob] = []  # submitted after the last answer of squeue

    @property
    def limits(self) -> site.SiteLimits:
        """The limits of the site, asked for once; raises UnavailableError."""
        if self._limits is None:
            asked = self._resources
            self._limits = site.read_user_limits(
                site.read_limits(), account=asked.account, qos=asked.qos, partition=asked.partition
            )
        return self._limits

    def know(self, arrays: Iterable[ArrayJob]) -> None:
        """Count these arrays as ours."""
        self._arrays.update({array.job_id: array for array in arrays})

    def advance(self, waves: Waves, seen: Snapshot) -> str:
        """Submit what has room; one line on why units are left, empty when none are.

        Raises:
            SubmitError: the site refuses the request itself; in one line with the setting at fault.
            UnavailableError: nobody knows whether the last array was submitted; Waves.settle finds out.
        """
        limits = self.limits
        queue = self._in_queue(waves, seen)
        attempt = limits.max_array_size
        while left := waves.left:
            count_now = QueueCount(elements=queue.elements, ours=queue.ours)
            cap = queue_cap(limits, count_now, max_submitted=self._max_submitted, learned=self._learned_now())
            if cap is not None and not seen.is_whole:
                return seen.look.problem or "squeue gave an answer that can't be read in full"
            size = min(attempt, array_size(limits, cap))
            count = next_count(left, size, cap, is_idle=queue.mine == 0)
            if cap is not None and count == 0:
                return f"{cap.name} leaves no room"
            try:
                queue.add(self._submit(waves, count, queue))
            except NoRoomError as error:
                # where not even one was taken, it is tried again when the queue has changed
                self._learn(error.limit, max(1, queue.elements + count - 1))
                if count == 1:
                    return f"{error.limit} leaves no room"
                attempt = count // 2
        return ""

    def _submit(self, waves: Waves, count: int, queue: _InQueue) -> ArrayJob:
        after = waits_for(
            waves.arrays, queue.active, waves.chained,
            max_parallel=self._max_parallel, in_queue=queue.mine, count=count,
        )  # fmt: skip
        one = Batch(offset=waves.next_offset, count=count, throttle=self._max_parallel, after=after)
        try:
            array = waves.submit(self._resources, one, self._client)
        except RefusedError as error:
            raise self._explained(str(error), waves) from error
        except NoRoomError as error:
            if not error.is_sure and count == 1 and not queue.elements:
                raise self._explained(error.words, waves) from error
            raise
        self.know([array])
        self._recent.append(array)
        return array

    def _explained(self, words: str, waves: Waves) -> SubmitError:
        asked = self._resources
        if waves.plan is not None and waves.plan.timeout_min is not None:
            asked = replace(asked, timeout_min=waves.plan.timeout_min)
        return SubmitError(explain(words, asked, run_client))

    def _learn(self, name: str, elements: int) -> None:
        self._learned = LearnedLimit(name=name, elements=elements, unix=self._clock())

    def _learned_now(self) -> LearnedLimit | None:
        if self._learned is not None and abs(self._clock() - self._learned.unix) > _LEARNED_S:
            self._learned = None
        return self._learned

    def _in_queue(self, waves: Waves, seen: Snapshot) -> _InQueue:
        """What the answer counts, and arrays that it can't know of because they were submitted after the question."""
        taken_unix = seen.look.taken_unix
        self._recent = [one for one in self._recent if one.submitted_unix >= taken_unix]
        mine = {array.job_id for array in waves.arrays}
        queue = _InQueue(
            elements=seen.singles + sum(seen.elements.values()),
            ours=sum(count for job_id, count in seen.elements.items() if job_id in self._arrays),
            mine=sum(count for job_id, count in seen.elements.items() if job_id in mine),
            active=mine & seen.elements.keys(),
        )
        for array in self._recent:
            if array.job_id not in seen.rows:
                queue.elements += array.count
                queue.ours += array.count
                if array.job_id in mine:
                    queue.mine += array.count
                    queue.active.add(array.job_id)
        return queue

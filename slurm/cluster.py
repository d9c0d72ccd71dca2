"""Work units as job arrays of Slurm, submitted in waves, watched by our own reading of squeue and sacct."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from slurm.batch import OURS, Batch, script_text
from slurm.client import SlurmClient, run_client
from slurm.errors import SubmitError, UnavailableError
from slurm.files import Desk, Plan, write_atomic
from slurm.gate import Gate, Snapshot, snapshot
from slurm.plan import ArrayPlan, array_size, plan_arrays
from slurm.site import SiteLimits
from slurm.units import Order, Probe, Resources, Submission, UnitState, WorkUnit
from slurm.watcher import Watcher
from slurm.waves import Waves

KIND = "cluster"
_GRACE_LEAST_S = 5.0
_GRACE_POLLS = 3.0  # a file may be a minute late on a network file system, and polls are 30 s apart at least
_CANCELLED_AT_ONCE = 500  # job ids on one command line
_RELEASES = 3  # of an element that is held because its launch failed
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What a submission would be where nothing else is in the queue: its arrays and their batch scripts, in order."""

    plan: ArrayPlan
    scripts: tuple[str, ...]


class ClusterLauncher:
    """Arrays within the limits of the site: what has room at `submit`, the rest from `states`, which is the driver's.

    Args:
        resources: what each element asks for.
        poll_s: squeue and sacct are called at most once in this time each.
        max_parallel: elements running at once (the %N of the array), 0 for no limit of ours.
        max_submitted: elements of all submissions in the queue at once, 0 for what the site allows.
        ledger: folder where calls of squeue and sacct and their answers are shared with other programs; None: not.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        resources: Resources,
        *,
        poll_s: float,
        max_parallel: int = 0,
        max_submitted: int = 0,
        ledger: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        clash = sorted({key.replace("_", "-") for key in resources.extra_sbatch} & OURS)
        if clash:
            raise SubmitError(f"extra_sbatch may not set {', '.join(clash)}: the launcher sets these itself")
        self._resources = resources
        self._clock = clock
        self._poll_s = poll_s
        grace_s = max(_GRACE_LEAST_S, _GRACE_POLLS * poll_s)
        self._client = SlurmClient(poll_s=poll_s, clock=clock, folder=ledger)
        self._max_parallel = max_parallel
        self._max_submitted = max_submitted
        self._gate = Gate(resources, self._client, max_parallel=max_parallel, max_submitted=max_submitted, clock=clock)
        self._waves: dict[str, Waves] = {}
        self._seen: Snapshot | None = None
        self._refused: dict[str, tuple[float, str]] = {}
        self._failure: tuple[float, UnavailableError] | None = None
        self._released: Counter[str] = Counter()
        self._released_unix = 0.0
        self._watcher = Watcher(self._client, grace_s=grace_s, clock=clock, has_accounting=self._has_accounting)

    @property
    def limits(self) -> SiteLimits:
        """The limits of the site for this user, asked for once; raises UnavailableError."""
        return self._patiently(lambda: self._gate.limits)

    def submit(self, order: Order) -> Submission:
        """Submit what has room now; called again with the same comment and folder, go on where it stopped.

        Raises:
            SubmitError: sbatch refused; arrays submitted before that stay, and a second call goes on after them.
            UnavailableError: slurmctld does not answer.
        """
        _check_words(order)
        waves = self._open(Desk(order.folder.absolute(), order.comment))
        if waves.plan is None:
            array_size(self.limits, None)
            plan = Plan.of(order, unix=self._clock())
            waves.desk.write_plan(plan)
            waves.plan = plan
        self._settle(waves)
        self._gate.advance(waves, self._look())
        return _receipt(waves)

    def find(self, comment: str, *, folder: Path) -> Submission | None:
        """The submission with this comment, for a caller that was killed before it could record the receipt.

        None: it was not made. What it lacks of arrays is submitted by `states`.

        Raises:
            UnavailableError: squeue does not answer, so that nobody knows.
        """
        waves = self._open(Desk(folder.absolute(), comment))
        if waves.plan is None:
            return None
        self._settle(waves)
        return _receipt(waves)

    def states(self, submission: Submission, units: Sequence[WorkUnit], probe: Probe) -> dict[str, UnitState]:
        """How each unit stands, from its files first; Slurm is asked only while a unit has no result.

        Submits arrays that have room now.

        Raises:
            SubmitError: the site refuses what is left to submit.
        """
        evidence = {unit.name: probe(unit.name) for unit in units}
        if all(each.done for each in evidence.values()):
            self._watcher.forget(submission)
            return dict.fromkeys(evidence, UnitState.DONE)
        waves = self._open(Desk(Path(submission.folder), submission.comment), submission)
        seen = self._look()
        reason = self._advance(waves, seen)
        self._cancel_doubles(waves, seen)
        self._release_failed_launches(waves, seen)
        return self._watcher.states(submission, waves, evidence, seen, reason=reason)

    def look(self, submission: Submission, units: Sequence[WorkUnit], probe: Probe) -> dict[str, UnitState]:
        """How each unit stands by an answer at most `poll_s` old; unlike `states` it submits and cancels nothing."""
        waves = self._open(Desk(Path(submission.folder), submission.comment), submission)
        evidence = {unit.name: probe(unit.name) for unit in units}
        return self._watcher.states(submission, waves, evidence, self._look(), reason="")

    def finish(self, submission: Submission) -> bool:
        """Take out of the queue what Slurm would start once more; True when squeue lists nothing of it any more.

        What still runs may be put back into the queue later: by a slurmctld that was started anew, for one.
        """
        waves = self._open(Desk(Path(submission.folder), submission.comment), submission)
        seen = self._look()
        left = waves.waiting(seen.rows)
        if left:
            # what starts all the same ends at once
            with contextlib.suppress(UnavailableError):
                _cancel(left, "--state=PENDING")
        return seen.is_whole and not waves.active(seen.rows)

    def notes(self, submission: Submission) -> dict[str, str]:
        """One line for each unit of the last `states` that has something to tell: why it waits, is held or ended."""
        return self._watcher.notes(submission)

    def cancel(self, submission: Submission) -> None:
        """Submit nothing more of it, and ask Slurm to end everything that was; raises UnavailableError."""
        waves = self._open(Desk(Path(submission.folder), submission.comment), submission)
        write_atomic(waves.desk.cancelled, b"")
        self._settle(waves)
        _cancel([array.job_id for array in waves.arrays])

    def rehearse(self, order: Order, *, limits: SiteLimits) -> Rehearsal:
        """What `submit` would hand to sbatch; asks and writes nothing. Raises SubmitError."""
        plan = plan_arrays(len(order.units), limits, max_parallel=self._max_parallel, max_submitted=self._max_submitted)
        desk = Desk(order.folder.absolute(), order.comment)
        asked = Plan.of(order, unix=self._clock())
        scripts = []
        for index, array in enumerate(plan.arrays):
            end = array.offset + array.count
            chains = 0 < self._max_parallel < end <= plan.submitted_at_once and index > 0
            after = (f"JOB{index}",) if chains else ()
            one = Batch(offset=array.offset, count=array.count, throttle=self._max_parallel, after=after)
            scripts.append(script_text(self._resources, desk, asked, one))
        return Rehearsal(plan=plan, scripts=tuple(scripts))

    def _has_accounting(self) -> bool:
        try:
            return self.limits.accounting
        except UnavailableError:
            return False

    def _open(self, desk: Desk, submission: Submission | None = None) -> Waves:
        """What is known of the submission; read from its files once, since only the driver writes them."""
        known = self._waves.get(str(desk.root))
        if known is None:
            received = () if submission is None else submission.arrays
            known = Waves(desk, desk.read_plan(), received=received, clock=self._clock)
            self._waves[str(desk.root)] = known
            self._gate.know(known.arrays)
        return known

    def _look(self) -> Snapshot:
        look = self._client.queue()
        if self._seen is None or self._seen.look is not look:
            self._seen = snapshot(look)
        return self._seen

    def _settle(self, waves: Waves) -> None:
        if waves.is_unsettled:
            limits = self.limits
            self._patiently(
                lambda: waves.settle(self._client, has_accounting=limits.accounting, min_job_age_s=limits.min_job_age_s)
            )
            self._gate.know(waves.arrays)

    def _patiently(self, ask: Callable[[], T]) -> T:
        """The answer. After a failure nothing is asked for `poll_s`: the same error comes again."""
        if self._failure is not None and abs(self._clock() - self._failure[0]) < self._poll_s:
            raise self._failure[1]
        try:
            answer = ask()
        except UnavailableError as error:
            self._failure = (self._clock(), error)
            raise
        self._failure = None
        return answer

    def _advance(self, waves: Waves, seen: Snapshot) -> str:
        """Submit what has room, once for each answer of squeue; why units are left, empty when none are."""
        if not waves.left:
            return ""
        taken_unix, reason = self._refused.get(waves.desk.key, (None, ""))
        if taken_unix == seen.look.taken_unix:
            return reason
        try:
            self._settle(waves)
            reason = self._patiently(lambda: self._gate.advance(waves, seen))
        except UnavailableError as error:
            reason = str(error)
        self._refused[waves.desk.key] = (seen.look.taken_unix, reason)
        return reason

    def _cancel_doubles(self, waves: Waves, seen: Snapshot) -> None:
        doubles = waves.doubles(seen.rows)
        if doubles:
            # what can't be cancelled now is seen again
            with contextlib.suppress(UnavailableError):
                _cancel(doubles)

    def _release_failed_launches(self, waves: Waves, seen: Snapshot) -> None:
        """A node or slurmctld that dies at the wrong moment leaves elements on hold, which are their user's to release.

        An element whose launch fails again and again stays on hold for the user to look at.
        """
        due = [one for one in waves.failed_launches(seen.rows) if self._released[one] < _RELEASES]
        if due and self._released_unix < seen.look.taken_unix:
            self._released_unix = seen.look.taken_unix
            with contextlib.suppress(UnavailableError):
                run_client(["scontrol", "release", ",".join(due)])
            self._released.update(due)


def _check_words(order: Order) -> None:
    if not order.units:
        raise SubmitError("no work units to submit")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", order.name):
        raise SubmitError(f"job name {order.name!r}: use letters, digits, dot, dash and underscore")
    if not order.comment or re.search(r"[|\x00-\x1f]", order.comment):
        raise SubmitError(f"comment {order.comment!r}: must not be empty nor hold a bar or control characters")


def _cancel(job_ids: Sequence[str], *options: str) -> None:
    for first in range(0, len(job_ids), _CANCELLED_AT_ONCE):
        run_client(["scancel", "--quiet", *options, *job_ids[first : first + _CANCELLED_AT_ONCE]])


def _receipt(waves: Waves) -> Submission:
    plan = waves.plan
    assert plan is not None
    return Submission(
        kind=KIND,
        name=plan.name,
        comment=plan.comment,
        folder=str(waves.desk.folder),
        submitted_unix=plan.submitted_unix,
        units=plan.units,
        arrays=tuple(waves.arrays),
    )

"""Work units as processes of this machine: beside the driver and outliving it, or inside its own process tree.

Whether a unit runs is told by a lock that its process holds from its first to its last instant: the launcher takes it
and the process inherits it. No process id is trusted, so neither a restart nor a reused id can mislead.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from slurm.errors import SlurmError, SubmitError
from slurm.files import Desk, Plan, is_held, write_atomic
from slurm.units import Evidence, Order, Probe, Submission, UnitState, WorkUnit

_CANCEL_LIMIT_S = 5.0

# asks the kernel to be killed when the driver ends, makes sure that it has not ended before, becomes the command
_TETHER = """
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL) or os.getppid() != int(sys.argv[1]):
    sys.exit("the driver has ended")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class LocalLauncher:
    """At most `max_parallel` processes at once (0: one per core), which go on when the driver ends.

    The queue moves on each time `states` is called, by whichever driver calls it: `states` is for the driver only.
    """

    kind = "local"

    def __init__(self, *, max_parallel: int = 0, clock: Callable[[], float] = time.time) -> None:
        self._max_parallel = max_parallel or len(os.sched_getaffinity(0))
        self._clock = clock
        self._plans: dict[str, Plan] = {}
        self._children: dict[Path, subprocess.Popen[bytes]] = {}
        self._notes: dict[str, dict[str, str]] = {}

    def submit(self, order: Order) -> Submission:
        """Write down what is to run, and start as much as may run; called again with the same comment, go on.

        Nothing here ends a unit for its time: `timeout_min` is for the record.

        Raises:
            SubmitError: no units, or a command that can't be started.
        """
        if not order.units:
            raise SubmitError("no work units to submit")
        desk = Desk(order.folder.absolute(), order.comment)
        plan = desk.read_plan()
        if plan is None:
            plan = Plan.of(order, unix=self._clock())
            desk.write_plan(plan)
        self._plans[str(desk.root)] = plan
        self._after_submit(desk, plan)
        return self._receipt(desk, plan)

    def find(self, comment: str, *, folder: Path) -> Submission | None:
        """The submission with this comment, for a caller that was killed before it could record the receipt."""
        desk = Desk(folder.absolute(), comment)
        plan = desk.read_plan()
        return None if plan is None else self._receipt(desk, plan)

    def states(self, submission: Submission, units: Sequence[WorkUnit], probe: Probe) -> dict[str, UnitState]:
        """How each unit stands; then start what may start."""
        self._reap()
        desk, plan = self._open(submission)
        evidence = {unit.name: probe(unit.name) for unit in units}
        self._advance(desk, plan, {unit for unit, each in evidence.items() if each.done or each.running})
        states = {unit: self._state(desk, unit, each) for unit, each in evidence.items()}
        # one that ended after its files were looked at has its result now
        for unit in [unit for unit, state in states.items() if state is UnitState.ENDED]:
            states[unit] = self._state(desk, unit, probe(unit))
        ended = [unit for unit, state in states.items() if state is UnitState.ENDED]
        self._notes[submission.comment] = {unit: self._ending(desk, unit) for unit in ended}
        return states

    def notes(self, submission: Submission) -> dict[str, str]:
        """One line for each unit that `states` last found ended."""
        return dict(self._notes.get(submission.comment, {}))

    def finish(self, submission: Submission) -> bool:
        """Nothing to do: `states` starts no unit that has its result."""
        return True

    def cancel(self, submission: Submission) -> None:
        """End every process of the submission and start no other."""
        desk, plan = self._open(submission)
        write_atomic(desk.cancelled, b"")
        locks = [desk.lock(unit) for unit in plan.units]
        deadline = time.monotonic() + _CANCEL_LIMIT_S
        word = signal.SIGTERM
        while groups := _groups_holding(locks):
            if time.monotonic() > deadline:
                word = signal.SIGKILL
            for group in groups:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, word)
            time.sleep(0.05)
            self._reap()

    def _after_submit(self, desk: Desk, plan: Plan) -> None:
        self._advance(desk, plan, set())

    def _advance(self, desk: Desk, plan: Plan, settled: set[str]) -> None:
        """Start what may start; `settled` units have their result or live without us."""
        if desk.cancelled.exists():
            return
        free = self._max_parallel - self._running()
        for position, unit in enumerate(plan.units):
            if free <= 0:
                return
            if unit not in settled and not desk.started(unit).exists() and self._start(desk, plan, position):
                free -= 1

    def _start(self, desk: Desk, plan: Plan, position: int) -> bool:
        """Start one unit; false when its process of an earlier driver still lives."""
        unit = plan.units[position]
        lock = _take(desk.lock(unit))
        if lock is None:
            return False
        try:
            child = _popen(desk, plan, position, prefix=(), keep_open=(lock,))
        finally:
            os.close(lock)
        self._children[desk.lock(unit)] = child
        # after the start: a driver killed in between at worst starts the unit again when its process has ended
        write_atomic(desk.started(unit), json.dumps({"pid": child.pid, "unix": self._clock()}).encode())
        return True

    def _state(self, desk: Desk, unit: str, evidence: Evidence) -> UnitState:
        if evidence.done:
            return UnitState.DONE
        if evidence.running or is_held(desk.lock(unit)):
            return UnitState.RUNNING
        if desk.started(unit).exists() or desk.cancelled.exists():
            return UnitState.ENDED
        return UnitState.WAITING

    def _ending(self, desk: Desk, unit: str) -> str:
        child = self._children.get(desk.lock(unit))
        how = "ended"
        if child is not None:
            # the kernel frees the lock a moment before it tells the exit code
            with suppress(subprocess.TimeoutExpired):
                how = _words(child.wait(timeout=1))
        return f"{how} without a result; its log: {desk.log(unit)}"

    def _running(self) -> int:
        """Processes of every submission this launcher has seen."""
        desks = [(Path(root), plan) for root, plan in self._plans.items()]
        return sum(is_held(root / f"{unit}.lock") for root, plan in desks for unit in plan.units)

    def _open(self, submission: Submission) -> tuple[Desk, Plan]:
        desk = Desk(Path(submission.folder), submission.comment)
        plan = self._plans.get(str(desk.root)) or desk.read_plan()
        if plan is None:
            raise SlurmError(f"{desk.root}: the plan of submission {submission.comment} is missing")
        self._plans[str(desk.root)] = plan
        return desk, plan

    def _reap(self) -> None:
        for child in self._children.values():
            child.poll()

    def _receipt(self, desk: Desk, plan: Plan) -> Submission:
        return Submission(
            kind=self.kind,
            name=plan.name,
            comment=plan.comment,
            folder=str(desk.folder),
            submitted_unix=plan.submitted_unix,
            units=plan.units,
        )


class InlineLauncher(LocalLauncher):
    """One unit at a time, inside the driver's process tree: each call of `states` runs the next one to its end.

    The process dies with the driver, however that ends; the unit then counts as not started.
    """

    kind = "inline"

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(max_parallel=1, clock=clock)

    def _after_submit(self, desk: Desk, plan: Plan) -> None:
        """Nothing: the receipt is recorded before the first unit runs."""

    def _advance(self, desk: Desk, plan: Plan, settled: set[str]) -> None:
        """Run one unit to its end; `settled` units have their result or live without us."""
        if desk.cancelled.exists():
            return
        for position, unit in enumerate(plan.units):
            if unit not in settled and not desk.exit(unit).exists():
                self._run(desk, plan, position)
                return

    def _run(self, desk: Desk, plan: Plan, position: int) -> None:
        tether = (sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid()))
        child = _popen(desk, plan, position, prefix=tether, keep_open=())
        try:
            code = child.wait()
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        write_atomic(desk.exit(plan.units[position]), str(code).encode())

    def _state(self, desk: Desk, unit: str, evidence: Evidence) -> UnitState:
        if evidence.done:
            return UnitState.DONE
        if evidence.running:
            return UnitState.RUNNING
        return UnitState.ENDED if desk.exit(unit).exists() or desk.cancelled.exists() else UnitState.WAITING

    def _ending(self, desk: Desk, unit: str) -> str:
        path = desk.exit(unit)
        how = _words(int(path.read_text())) if path.exists() else "was cancelled"
        return f"{how} without a result; its log: {desk.log(unit)}"


def _popen(
    desk: Desk, plan: Plan, position: int, *, prefix: Sequence[str], keep_open: Sequence[int]
) -> subprocess.Popen[bytes]:
    command = plan.commands[position]
    try:
        with desk.log(plan.units[position]).open("ab") as log:
            return subprocess.Popen(
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **plan.environment},
                start_new_session=True,
                pass_fds=keep_open,
            )
    except OSError as error:
        raise SubmitError(f"unit {plan.units[position]}: {command[0]} can't be started: {error.strerror}") from error


def _take(path: Path) -> int | None:
    """An open descriptor that holds the lock, or None when another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _groups_holding(locks: Sequence[Path]) -> set[int]:
    """Process groups of this user with a process that has one of these files open, this process aside."""
    wanted = {str(path) for path in locks}
    groups = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        # processes end while they are looked at, and those of other users can't be looked into
        with suppress(OSError):
            if any(os.readlink(link) in wanted for link in entry.joinpath("fd").iterdir()):
                groups.add(os.getpgid(int(entry.name)))
    return groups - {os.getpgrp()}


def _words(code: int) -> str:
    if code < 0:
        return f"was killed by signal {-code}"
    return f"ended with exit code {code}"

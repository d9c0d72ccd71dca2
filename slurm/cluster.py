"""Work units as job arrays of Slurm, submitted through submitit, watched by our own reading of squeue and sacct.

Of submitit the batch script, the call of sbatch and the reading of the job id are used. Its pickles are not: the driver
would load what a job wrote, and the array would depend on files that are moved only after sbatch has returned.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from slurm import site
from slurm.client import Look, SlurmClient, run_client
from slurm.errors import SlurmError, SubmitError, UnavailableError
from slurm.files import Desk, Plan, write_atomic
from slurm.states import ArrayRow, Phase, is_alive, judge, rows_of_elements
from slurm.units import ArrayJob, Command, Evidence, Probe, Resources, Submission, UnitState, WorkUnit

KIND = "cluster"
SBATCH_LIMIT_S = 120
_GRACE_LEAST_S = 5.0
_GRACE_POLLS = 2.0
_OURS = {"array", "comment", "error", "job-name", "open-mode", "output"}


class ClusterLauncher:
    """One array per submission, or several where the site's limit is smaller; throttled ones run one after the other.

    Args:
        resources: what each element asks for.
        poll_s: squeue and sacct are called at most once in this time each.
        max_parallel: elements running at once (the %N of the array), 0 for no limit of ours.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        resources: Resources,
        *,
        poll_s: float,
        max_parallel: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        clash = sorted({key.replace("_", "-") for key in resources.extra_sbatch} & _OURS)
        if clash:
            raise SubmitError(f"extra_sbatch may not set {', '.join(clash)}: the launcher sets these itself")
        self._resources = resources
        self._max_parallel = max_parallel
        self._clock = clock
        self._grace_s = max(_GRACE_LEAST_S, _GRACE_POLLS * poll_s)
        self._client = SlurmClient(poll_s=poll_s, clock=clock)
        self._limits: site.SiteLimits | None = None
        self._missing: dict[str, dict[str, float]] = {}
        self._notes: dict[str, dict[str, str]] = {}

    def submit(
        self,
        units: Sequence[WorkUnit],
        *,
        command: Command,
        folder: Path,
        name: str,
        comment: str,
        environment: Mapping[str, str],
    ) -> Submission:
        """Submit the arrays. Called again with the same comment and folder, it submits only what Slurm lacks.

        Raises:
            SubmitError: sbatch refused; arrays submitted before that stay, and a second call goes on after them.
            UnavailableError: slurmctld does not answer.
        """
        _check_words(units, name=name, comment=comment)
        desk = Desk(folder.absolute(), comment)
        plan = desk.read_plan()
        found = {} if plan is None else self._job_ids(desk, plan)
        if plan is None:
            plan = Plan(
                name=name,
                comment=comment,
                submitted_unix=self._clock(),
                units=tuple(unit.name for unit in units),
                commands=tuple(tuple(command(unit.index)) for unit in units),
                environment=dict(environment),
                array_elements=self._site().max_array_size,
            )
            desk.write_plan(plan)
        arrays: list[ArrayJob] = []
        for offset, count in _array_sizes(plan):
            job_id = found.get(offset) or self._submit_array(desk, plan, offset=offset, count=count, after=arrays)
            arrays.append(ArrayJob(job_id=job_id, offset=offset, count=count))
        return _receipt(desk, plan, arrays)

    def find(self, comment: str, *, folder: Path) -> Submission | None:
        """The submission with this comment, for a caller that was killed before it could record the receipt.

        None: it was not made, or not to its end; submit with the same comment then makes what is lacking.

        Raises:
            UnavailableError: squeue does not answer, so that nobody knows.
        """
        desk = Desk(folder.absolute(), comment)
        plan = desk.read_plan()
        if plan is None:
            return None
        found = self._job_ids(desk, plan)
        sizes = _array_sizes(plan)
        if any(offset not in found for offset, _ in sizes):
            return None
        arrays = [ArrayJob(job_id=found[offset], offset=offset, count=count) for offset, count in sizes]
        return _receipt(desk, plan, arrays)

    def states(self, submission: Submission, units: Sequence[WorkUnit], probe: Probe) -> dict[str, UnitState]:
        """How each unit stands, from its files first; Slurm is asked only while a unit has no result."""
        evidence = {unit.name: probe(unit.name) for unit in units}
        if all(each.done for each in evidence.values()):
            self._notes.pop(submission.comment, None)
            return dict.fromkeys(evidence, UnitState.DONE)
        look = self._client.queue()
        rows = _rows_of_units(submission, _own_rows(look.answer.rows, submission), evidence)
        # what was asked before the submission can't know it
        is_early = look.taken_unix < submission.submitted_unix
        can_miss = look.problem is None and look.answer.whole and not is_early
        missing = self._missing_since(submission, evidence, rows, look=look if can_miss else None)
        states = {}
        for unit, each in evidence.items():
            row = rows[unit]
            phase = row.phase if row else Phase.WAITING if is_early else None
            states[unit] = judge(
                each,
                phase,
                alive=is_alive(each, now_unix=self._clock(), fresh_s=self._grace_s),
                missing_s=abs(look.taken_unix - missing[unit]) if can_miss and unit in missing else None,
                grace_s=self._grace_s,
            )
        self._notes[submission.comment] = self._make_notes(submission, rows, states, problem=look.problem)
        return states

    def notes(self, submission: Submission) -> dict[str, str]:
        """One line for each unit of the last `states` that has something to tell: why it waits, is held or ended."""
        return dict(self._notes.get(submission.comment, {}))

    def cancel(self, submission: Submission) -> None:
        """Ask Slurm to end everything of the submission; raises UnavailableError."""
        if submission.arrays:
            run_client(["scancel", "--quiet", *(array.job_id for array in submission.arrays)])

    def _site(self) -> site.SiteLimits:
        if self._limits is None:
            self._limits = site.read_limits()
        return self._limits

    def _job_ids(self, desk: Desk, plan: Plan) -> dict[int, str]:
        """Job ids by offset, of the arrays of this plan that Slurm knows or remembers."""
        known = _job_ids_by_offset(self._client.queue_now().answer.rows, plan.name, desk.key)
        lacking = [_job_name(plan.name, desk.key, offset) for offset, _ in _array_sizes(plan) if offset not in known]
        if lacking and self._site().accounting:
            past = self._client.accounts_named(lacking, since_unix=plan.submitted_unix).answer.rows
            known = {**_job_ids_by_offset(past, plan.name, desk.key), **known}
        return known

    def _submit_array(self, desk: Desk, plan: Plan, *, offset: int, count: int, after: Sequence[ArrayJob]) -> str:
        write_atomic(desk.commands(offset), _command_lines(desk, plan, range(offset, offset + count)).encode())
        executor = _CommandArrays(desk.root)
        executor.update_parameters(**self._parameters(desk, plan, offset=offset, after=after))
        executor.parameters["map_count"] = count
        try:
            # submitit repeats the message of sbatch on the screen, in the middle of the driver's display
            with contextlib.redirect_stderr(io.StringIO()):
                return str(executor._submit_command(_element_command(desk.commands(offset))).job_id)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            # sbatch may fail or time out after slurmctld has taken the job
            with contextlib.suppress(UnavailableError):
                taken = _job_ids_by_offset(self._client.queue_now().answer.rows, plan.name, desk.key).get(offset)
                if taken is not None:
                    return taken
            said = str(error).strip().splitlines()
            reason = said[-1] if said else f"no answer within {SBATCH_LIMIT_S} s"
            raise SubmitError(f"sbatch of an array of {count} elements failed: {reason}") from error

    def _parameters(self, desk: Desk, plan: Plan, *, offset: int, after: Sequence[ArrayJob]) -> dict[str, Any]:
        asked = self._resources
        extra = {key.replace("_", "-"): value for key, value in asked.extra_sbatch.items()}
        own: dict[str, str | int] = {"output": f"{str(desk.root).replace('%', '%%')}/%A_%a.out"}
        if "no-requeue" not in extra:
            own["requeue"] = True
        if after and self._max_parallel:
            own["dependency"] = f"afterany:{after[-1].job_id}"
        has_memory = any(key == "mem" or key.startswith("mem-per") for key in extra)
        return {
            "job_name": _job_name(plan.name, desk.key, offset),
            "comment": plan.comment,
            "time": asked.timeout_min,
            "cpus_per_task": asked.cpus_per_task,
            "mem": None if has_memory else f"{int(asked.memory_gb * 1024)}M",
            "partition": asked.partition,
            "account": asked.account,
            "qos": asked.qos,
            "constraint": asked.constraint,
            "gres": asked.gres,
            "setup": [*asked.setup, *(f"export {key}={shlex.quote(v)}" for key, v in plan.environment.items())],
            "array_parallelism": self._max_parallel or len(plan.units),
            "wckey": None,  # sites that check this key refuse the one submitit sets
            "use_srun": False,
            "stderr_to_stdout": True,
            "additional_parameters": {**own, **extra},
        }

    def _missing_since(
        self,
        submission: Submission,
        evidence: Mapping[str, Evidence],
        rows: Mapping[str, ArrayRow | None],
        *,
        look: Look | None,
    ) -> dict[str, float]:
        """Since when each unit without result is not active; kept in a file for a driver that is started anew."""
        path = Desk(Path(submission.folder), submission.comment).missing
        before = self._missing.get(submission.comment)
        if before is None:
            before = _read_missing(path)
        now = before
        if look is not None:
            gone = [unit for unit, row in rows.items() if row is None or row.phase is Phase.OVER]
            now = {unit: before.get(unit, look.taken_unix) for unit in gone if not evidence[unit].done}
        if now != before:
            # without the file, a driver that starts anew only waits once more
            with contextlib.suppress(SlurmError):
                write_atomic(path, json.dumps(now).encode())
        self._missing[submission.comment] = now
        return now

    def _make_notes(
        self,
        submission: Submission,
        rows: Mapping[str, ArrayRow | None],
        states: Mapping[str, UnitState],
        *,
        problem: str | None,
    ) -> dict[str, str]:
        forgotten = [unit for unit, state in states.items() if state is UnitState.ENDED and rows[unit] is None]
        remembered = self._remembered(submission, forgotten) if forgotten else {}
        notes = {}
        for unit, state in states.items():
            row = rows[unit] or remembered.get(unit)
            if state is UnitState.UNKNOWN:
                notes[unit] = problem or "Slurm does not know it; it is asked again before the unit counts as ended"
            elif state is UnitState.ENDED:
                notes[unit] = row.note() if row and row.phase is Phase.OVER else "Slurm does not know it any more"
            elif state is not UnitState.DONE and row is not None and row.note():
                notes[unit] = row.note()
        return notes

    def _remembered(self, submission: Submission, units: Sequence[str]) -> dict[str, ArrayRow | None]:
        """What the accounting says about units that squeue has forgotten; nothing where there is none."""
        try:
            if not self._site().accounting:
                return {}
        except UnavailableError:
            return {}
        look = self._client.accounts([array.job_id for array in submission.arrays])
        return _rows_of_units(submission, _own_rows(look.answer.rows, submission), units)


class _CommandArrays(submitit.SlurmExecutor):
    """submitit's executor with a deadline on sbatch, which otherwise waits for ever where MaxJobCount is reached."""

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        command = super()._make_submission_command(submission_file_path)
        return ["timeout", "--kill-after=5", str(SBATCH_LIMIT_S), *command]


def _command_lines(desk: Desk, plan: Plan, positions: Iterable[int]) -> str:
    """One line per element; `exec` lets a signal of Slurm reach the program itself."""
    lines = []
    for position in positions:
        command = shlex.join(plan.commands[position])
        if "\n" in command:
            raise SubmitError(f"unit {plan.units[position]}: its command holds a line end, which an array can't carry")
        lines.append(f"exec {command} >> {shlex.quote(str(desk.log(plan.units[position])))} 2>&1\n")
    return "".join(lines)


def _element_command(commands: Path) -> str:
    """Shell text that runs the line of this array element."""
    return "\n".join(
        [
            f'line="$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(commands))})"',
            '[ -n "$line" ] || { echo "no command for element $SLURM_ARRAY_TASK_ID" >&2; exit 1; }',
            'eval "$line"',
        ]
    )


def _check_words(units: Sequence[WorkUnit], *, name: str, comment: str) -> None:
    if not units:
        raise SubmitError("no work units to submit")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise SubmitError(f"job name {name!r}: use letters, digits, dot, dash and underscore")
    if not comment or re.search(r"[|\x00-\x1f]", comment):
        raise SubmitError(f"comment {comment!r}: must not be empty nor hold a bar or control characters")


def _array_sizes(plan: Plan) -> list[tuple[int, int]]:
    """(offset, count) of each array of the plan."""
    total, size = len(plan.units), plan.array_elements
    if size < 1:
        raise SubmitError("this site has job arrays switched off (MaxArraySize=0)")
    return [(offset, min(size, total - offset)) for offset in range(0, total, size)]


def _job_name(name: str, key: str, offset: int) -> str:
    return f"{name}-{key}-{offset}"


def _job_ids_by_offset(rows: Sequence[ArrayRow], name: str, key: str) -> dict[int, str]:
    """The first array of each job name: a second one of the same name can only be a later mistake."""
    found: dict[int, str] = {}
    for row in rows:
        match = re.fullmatch(rf"{re.escape(name)}-{key}-(\d+)", row.name)
        if match:
            offset = int(match[1])
            found[offset] = min(found.get(offset, row.job_id), row.job_id, key=int)
    return found


def _own_rows(rows: Sequence[ArrayRow], submission: Submission) -> list[ArrayRow]:
    """Job ids start from 1 again when a site loses its state, so the id alone does not make a row ours."""
    prefix = f"{submission.name}-{Desk(Path(), submission.comment).key}-"
    return [row for row in rows if row.comment == submission.comment or row.name.startswith(prefix)]


def _rows_of_units(
    submission: Submission, rows: Sequence[ArrayRow], units: Iterable[str]
) -> dict[str, ArrayRow | None]:
    """The row of each wanted unit; None for one that no row is about."""
    found: dict[str, ArrayRow | None] = dict.fromkeys(units)
    for array in submission.arrays:
        names = submission.units[array.offset : array.offset + array.count]
        of_array = [row for row in rows if row.job_id == array.job_id]
        of_elements = zip(names, rows_of_elements(of_array, array.count), strict=True)
        found.update({unit: row for unit, row in of_elements if unit in found})
    return found


def _read_missing(path: Path) -> dict[str, float]:
    try:
        return {str(unit): float(since) for unit, since in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _receipt(desk: Desk, plan: Plan, arrays: Sequence[ArrayJob]) -> Submission:
    return Submission(
        kind=KIND,
        name=plan.name,
        comment=plan.comment,
        folder=str(desk.folder),
        submitted_unix=plan.submitted_unix,
        units=plan.units,
        arrays=tuple(arrays),
    )

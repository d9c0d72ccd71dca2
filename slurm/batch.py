"""Batch scripts: from resources to the text of an array, and to its job id through sbatch. The one door to submitit.

Of submitit the batch script, the call of sbatch and the reading of the job id are used. Its pickles are not: the driver
would load what a job wrote, and the array would depend on files that are moved only after sbatch has returned.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from slurm.errors import SlurmError, SubmitError, UnavailableError
from slurm.files import Desk, Intent, Plan
from slurm.script import element_script
from slurm.units import Resources

SBATCH_LIMIT_S = 120
OURS = {"array", "comment", "error", "job-name", "open-mode", "output", "signal"}

# the lock tells a later driver that this sbatch lives, the token that a later driver has not given the array up
GUARDED = 'grep -qF -- "$1" "$2" && exec timeout --kill-after=5 "$3" sbatch "$4"'
_NO_ROOM = re.compile(r"(?:QOS|Assoc)(?:Max|Grp)SubmitJobs?\w*Limit")
_POLICY = re.compile(r"violates accounting/QOS policy")
_UNREACHED = re.compile(
    r"Unable to contact slurm controller|[Ss]ocket timed out|Connection (refused|reset|timed out)|Zero Bytes were"
    r"|Transport endpoint|Unexpected message received|Communication connection failure|munge"
    r"|temporarily unable|queue full"
)


class NoRoomError(SlurmError):
    """sbatch refused because the user has too many jobs; `limit` is Slurm's word for it. Nothing was submitted.

    `is_sure`: Slurm named a limit on the number of jobs; otherwise the size of the request may be the reason.
    """

    def __init__(self, limit: str, *, words: str, is_sure: bool) -> None:
        super().__init__(f"{limit}: no room in the queue for more")
        self.limit = limit
        self.words = words
        self.is_sure = is_sure


class NoAnswerError(UnavailableError):
    """Nobody knows whether sbatch submitted the array: it ran into its deadline, or slurmctld did not answer it."""


class RefusedError(SubmitError):
    """sbatch refused the request; the text is all it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One array as it is submitted. `after`: job ids it waits for; `throttle`: elements running at once, 0 for all."""

    offset: int
    count: int
    throttle: int
    after: tuple[str, ...] = ()


def job_name(plan: Plan, key: str, offset: int) -> str:
    """Name of an array in Slurm; the key is a hash of the submission's comment, so that no other job has it."""
    return f"{plan.name}-{key}-{offset}"


def command_lines(desk: Desk, plan: Plan, batch: Batch) -> str:
    """One shell line per element; `exec` lets a signal reach the program itself."""
    lines = []
    quoted = functools.cache(shlex.quote)  # but for its index, every command is the same
    for position in range(batch.offset, batch.offset + batch.count):
        # a line end can only stand between the single quotes of shlex
        command = " ".join(map(quoted, plan.commands[position])).replace("\n", "'$'\\n''")
        lines.append(f"exec {command} >> {shlex.quote(desk.log_name(plan.units[position]))} 2>&1\n")
    return "".join(lines)


def script_text(resources: Resources, desk: Desk, plan: Plan, batch: Batch) -> str:
    """The batch script of an array, as sbatch gets it."""
    executor = _executor(resources, desk, plan, batch)
    text: str = executor._make_submission_file_text(_element(resources, desk, batch), "text")
    return text


def submit(resources: Resources, desk: Desk, plan: Plan, batch: Batch, intent: Intent) -> str:
    """The job id of the array, submitted now.

    Raises:
        NoRoomError, RefusedError: nothing was submitted.
        NoAnswerError: look into the queue.
    """
    executor = _executor(resources, desk, plan, batch)
    executor.guard = ["flock", str(desk.submit_lock), "sh", "-c", GUARDED, "sbatch", intent.token]
    executor.guard += [str(desk.intent(batch.offset)), str(SBATCH_LIMIT_S)]
    try:
        # submitit repeats the message of sbatch on the screen, in the middle of the driver's display
        with contextlib.redirect_stderr(io.StringIO()):
            return str(executor._submit_command(_element(resources, desk, batch)).job_id)
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        raise _failure(str(error).strip()) from error
    finally:
        # a link to the script beside it, or the script of a refused request
        if executor.script is not None:
            executor.script.unlink(missing_ok=True)


class _CommandArrays(submitit.SlurmExecutor):
    """submitit's executor with a guard before sbatch, which otherwise waits for ever where MaxJobCount is reached."""

    guard: Sequence[str] = ()
    script: Path | None = None

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        self.script = submission_file_path
        return [*self.guard, str(submission_file_path)]

    @classmethod
    def affinity(cls) -> int:
        """submitit asks for srun here, which these scripts do not call."""
        return 1


def _executor(resources: Resources, desk: Desk, plan: Plan, batch: Batch) -> _CommandArrays:
    executor = _CommandArrays(desk.root)
    executor.update_parameters(**_parameters(resources, desk, plan, batch))
    executor.parameters["map_count"] = batch.count
    return executor


def _element(resources: Resources, desk: Desk, batch: Batch) -> str:
    has_no_requeue = any(key.replace("_", "-") == "no-requeue" for key in resources.extra_sbatch)
    return element_script(desk.commands(batch.offset), requeue=resources.requeue and not has_no_requeue)


def _parameters(asked: Resources, desk: Desk, plan: Plan, batch: Batch) -> dict[str, Any]:
    extra = {key.replace("_", "-"): value for key, value in asked.extra_sbatch.items()}
    timeout_min = plan.timeout_min or asked.timeout_min
    has_memory = any(key == "mem" or key.startswith("mem-per") for key in extra)
    return {
        "job_name": job_name(plan, desk.key, batch.offset),
        "comment": plan.comment,
        "time": timeout_min,
        "cpus_per_task": asked.cpus_per_task,
        "mem": None if has_memory else f"{int(asked.memory_gb * 1024)}M",
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "gres": asked.gres,
        "gpus_per_task": asked.gpus_per_task,
        "mail_user": asked.mail_user,
        "mail_type": asked.mail_type,
        "setup": [*asked.setup, *_exports(plan.environment)],
        "array_parallelism": batch.throttle or batch.count,
        "wckey": None,  # sites that check this key refuse the one submitit sets
        "use_srun": False,
        "stderr_to_stdout": True,
        "additional_parameters": {**_own_options(asked, desk, batch, timeout_min, extra), **extra},
    }


def _own_options(
    asked: Resources, desk: Desk, batch: Batch, timeout_min: int, extra: Mapping[str, str | int]
) -> dict[str, str | int]:
    # one file for all elements of an array: what a unit prints goes to its own log
    own: dict[str, str | int] = {"output": f"{str(desk.root).replace('%', '%%')}/%A.out"}
    # a warning in the first half of a unit's time would cost more than it saves
    own["signal"] = f"B:USR1@{min(asked.warn_s, timeout_min * 30)}"
    if not {"requeue", "no-requeue"} & extra.keys():
        own["requeue" if asked.requeue else "no-requeue"] = True
    if asked.gpus_per_task:
        own["ntasks-per-node"] = 1  # sbatch takes GPUs per task only with a number of tasks
    if batch.after:
        own["dependency"] = f"afterany:{':'.join(batch.after)}"
    return own


def _exports(environment: Mapping[str, str]) -> list[str]:
    return [f"export {key}={shlex.quote(value)}" for key, value in environment.items()]


def _failure(said: str) -> SlurmError:
    named = _NO_ROOM.search(said)
    if named:
        return NoRoomError(named[0], words=said, is_sure=True)
    if _POLICY.search(said):
        return NoRoomError("a limit of the site", words=said, is_sure=False)
    if not said:
        return NoAnswerError(f"sbatch gave no answer within {SBATCH_LIMIT_S} s")
    if _UNREACHED.search(said):
        return NoAnswerError(f"sbatch: {said.splitlines()[-1]}")
    return RefusedError(said)

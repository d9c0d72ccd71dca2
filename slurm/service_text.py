"""The batch script of a service, and how a service stands by what squeue prints. Pure functions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from slurm.advice import Phase
from slurm.errors import SubmitError
from slurm.states import ArrayRow
from slurm.units import Resources

_OURS = {"array", "comment", "error", "job-name", "open-mode", "output", "signal"}
_ENDINGS = {
    "COMPLETED": "ended by itself",
    "FAILED": "ended with an error; its log says more",
    "TIMEOUT": "reached its time limit",
    "OUT_OF_MEMORY": "was killed for its memory",
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "its node did not boot",
    "PREEMPTED": "was preempted",
    "CANCELLED": "was cancelled",
    "DEADLINE": "could not finish before its deadline",
}


class ServiceState(Enum):
    """How a service stands for Slurm; whether it does its work is for its owner to find out."""

    WAITING = "waiting"  # will start by itself
    HELD = "held"  # will not start by itself; the reason says what to do
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"  # Slurm did not answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """`reason` says in one line why it waits, what holds it, how it ended, or why nobody knows."""

    state: ServiceState
    reason: str = ""


_STATES = {
    Phase.WAITING: ServiceState.WAITING,
    Phase.HELD: ServiceState.HELD,
    Phase.RUNNING: ServiceState.RUNNING,
    Phase.UNKNOWN: ServiceState.UNKNOWN,
}


def sbatch_options(resources: Resources) -> dict[str, str | int]:
    """Options of sbatch, without dashes, that ask for these resources; no requeue unless `extra_sbatch` has it.

    Raises:
        SubmitError: extra_sbatch sets an option that is not the user's.
    """
    extra = {key.replace("_", "-"): value for key, value in resources.extra_sbatch.items()}
    clash = sorted(set(extra) & _OURS)
    if clash:
        raise SubmitError(f"extra_sbatch may not set {', '.join(clash)}: these are set for each service")
    asked: dict[str, str | int | None] = {
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": resources.cpus_per_task,
        "mem": f"{int(resources.memory_gb * 1024)}M",
        "time": resources.timeout_min,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "gres": resources.gres,
        "gpus-per-task": resources.gpus_per_task,
        "mail-user": resources.mail_user,
        "mail-type": resources.mail_type,
        "no-requeue": True,
    }
    if any(key == "mem" or key.startswith("mem-per") for key in extra):
        del asked["mem"]
    if "requeue" in extra:
        del asked["no-requeue"]
    return {key: value for key, value in asked.items() if value is not None} | extra


def service_script(
    command: Sequence[str],
    options: Mapping[str, str | int],
    *,
    setup: Sequence[str],
    environment: Mapping[str, str],
) -> str:
    """The batch script. `exec`: Slurm's signals reach the program itself, and its exit code is the job's."""
    flags = [
        f"#SBATCH --{key}" if value is True else f"#SBATCH --{key}={shlex.quote(str(value))}"
        for key, value in sorted(options.items())
    ]
    exports = [f"export {key}={shlex.quote(value)}" for key, value in environment.items()]
    return "\n".join(["#!/bin/bash", *flags, *setup, *exports, f"exec {shlex.join(command)}", ""])


def judge_row(row: ArrayRow) -> ServiceStatus:
    """How a service stands that squeue knows."""
    if row.phase is Phase.OVER:
        return ServiceStatus(state=ServiceState.ENDED, reason=ending(row.job_id, row.word))
    return ServiceStatus(state=_STATES[row.phase], reason=f"job {row.job_id} {row.note()}" if row.note() else "")


def ending(job_id: str, word: str) -> str:
    return f"job {job_id} {_ENDINGS.get(word, f'ended as {word}')}"

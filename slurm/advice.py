"""Advice: every job state and pending reason of Slurm, what the loop does about it, and what the user can do.

One table of each, which the verdicts, the notes of `status` and the documentation are made from;
`python -m slurm.advice` prints both as Markdown. Words are those of Slurm 20.11 to 24.11.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache


class Phase(Enum):
    """What one row says about an array element."""

    WAITING = "waiting"
    RUNNING = "running"
    HELD = "held"
    OVER = "over"  # not active any more; how it went is told by its files
    UNKNOWN = "unknown"


LAUNCH_FAILED = "launch failed requeued held"  # the reason of an element that Slurm could not start and holds now

# what the loop does in each phase
LOOP = {
    Phase.WAITING: "waits",
    Phase.RUNNING: "waits; it can't end the unit while Slurm shows this",
    Phase.HELD: "waits and shows the advice; it never cancels by itself",
    Phase.OVER: "takes the result; where none comes, nor a sign of life, runs the unit again (attempts_per_task)",
    Phase.UNKNOWN: "asks again; a unit never ends on this",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRule:
    """What one job state of Slurm means. `advice` is for the user, empty where all is well."""

    word: str
    phase: Phase
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonRule:
    """What one reason of a pending job means; `*` in `reason` stands for any letters.

    `starts`: the job starts some day without anybody's help.
    """

    reason: str
    starts: bool
    advice: str


def _states(phase: Phase, **advice: str) -> tuple[StateRule, ...]:
    return tuple(StateRule(word=word, phase=phase, advice=text) for word, text in advice.items())


def _reasons(starts: bool, advice: str, *names: str) -> tuple[ReasonRule, ...]:
    return tuple(ReasonRule(reason=name, starts=starts, advice=advice) for name in names)


STATE_RULES: tuple[StateRule, ...] = (
    *_states(
        Phase.WAITING,
        PENDING="",
        CONFIGURING="its node is booting",
        POWER_UP_NODE="its node is booting",
        REQUEUED="starts again by itself",
        REQUEUE_FED="starts again by itself",
        EXPEDITING="starts again by itself, before others",
    ),
    *_states(
        Phase.HELD,
        REQUEUE_HOLD="was requeued and held: scontrol release <job> lets it start",
        SPECIAL_EXIT="was requeued and held by a rule of the site: see its log, then scontrol release <job>",
        RESV_DEL_HOLD="its reservation is gone: remove it from slurm.extra_sbatch, cancel the job and start again",
    ),
    *_states(
        Phase.RUNNING,
        RUNNING="",
        COMPLETING="its processes are being ended; after ten minutes tell the site that its node hangs",
        SUSPENDED="was suspended, mostly for a job of higher priority, and goes on by itself",
        STOPPED="was stopped and keeps its cores; scontrol resume <job> or the site lets it go on",
        RESIZING="",
        SIGNALING="",
        STAGE_OUT="its files are being copied",
        UPDATE_DB="",
    ),
    *_states(
        Phase.OVER,
        COMPLETED="ended normally, but left no result; its log says more",
        FAILED="ended with an error; its log says more",
        CANCELLED="was cancelled",
        TIMEOUT="reached its time limit; raise slurm.timeout_min or make units smaller",
        OUT_OF_MEMORY="was killed for its memory; raise slurm.memory_gb",
        # a requeued job is PENDING in squeue, so these two words are final there
        NODE_FAIL="lost its node",
        PREEMPTED="was preempted and not requeued; a partition without preemption avoids that",
        BOOT_FAIL="its node did not boot",
        LAUNCH_FAILED="could not be launched on its node; exclude the node in slurm.extra_sbatch if it comes back",
        RECONFIG_FAIL="its node could not be made ready",
        DEADLINE="could not finish before its deadline; remove it from slurm.extra_sbatch",
    ),
    # another cluster of the federation runs it, and can't be seen from here
    *_states(
        Phase.UNKNOWN,
        REVOKED="was taken over by another cluster of the federation; name one cluster in slurm.extra_sbatch",
    ),
)

# the first rule that fits counts, so the special ones stand before the general
REASON_RULES: tuple[ReasonRule, ...] = (
    *_reasons(True, "jobs of higher priority go first", "Priority"),
    *_reasons(True, "the partition is full; a shorter slurm.timeout_min lets backfill use gaps", "Resources"),
    *_reasons(True, "slurm.max_parallel elements run already", "JobArrayTaskLimit"),
    *_reasons(True, "Slurm lets a requeued job wait for a while", "BeginTime"),
    *_reasons(True, "the scheduler has not looked at it yet", "WaitingForScheduling", "SchedDefer", "FedJobLock"),
    *_reasons(True, "a program of the site prepares its node", "Prolog"),
    *_reasons(True, "its earlier attempt is still being ended", "Cleaning"),
    *_reasons(True, "waits for another job", "Dependency"),
    *_reasons(False, "waits for a job that failed: cancel it and start again", "DependencyNeverSatisfied"),
    *_reasons(
        True,
        "nodes are down or reserved, often for maintenance; a slurm.timeout_min that ends before it may start now",
        *("ReqNodeNotAvail", "Nodes required for job are DOWN, DRAINED or reserved *"),
    ),
    *_reasons(True, "its nodes are down: wait, or choose another slurm.partition", "NodeDown", "FrontEndDown"),
    *_reasons(True, "the partition is closed: wait, or choose another one", "PartitionDown", "PartitionInactive"),
    *_reasons(True, "the partition gives fewer nodes than asked for, or they are down", "PartitionNodeLimit"),
    *_reasons(False, "slurm.timeout_min is over the partition's limit: see sinfo -o '%P %l'", "PartitionTimeLimit"),
    *_reasons(False, "the partition does not take such jobs: see scontrol show partition", "PartitionConfig"),
    *_reasons(True, "waits for its reservation to begin", "Reservation"),
    *_reasons(
        False,
        "its reservation is gone: remove it from slurm.extra_sbatch, cancel the job and start again",
        *("ReservationDeleted", "ReservationInvalid"),
    ),
    *_reasons(True, "waits for a licence that others use", "Licenses"),
    *_reasons(False, "held by the user: scontrol release <job>", "JobHeldUser"),
    *_reasons(False, "held by an administrator: ask the site", "JobHeldAdmin"),
    *_reasons(
        False,
        "requeued too often: look for broken nodes, then scontrol release <job>",
        *("JobHoldMaxRequeue", "*MaxRequeue*"),
    ),
    *_reasons(
        False,
        "its launch failed; it is released three times, then look for broken nodes and scontrol release <job>",
        *(LAUNCH_FAILED, "JobLaunchFailure"),
    ),
    *_reasons(
        False,
        "requeued and held: scontrol release <job> lets it start",
        *("job requeued in held state", "job requeued in special state", "* requeued held"),
    ),
    *_reasons(False, "no node has what is asked for: see slurm.constraint, gres, memory", "BadConstraints"),
    *_reasons(False, "no node has what slurm.constraint asks for", "Constraints"),
    *_reasons(
        False,
        "set slurm.account to one of: sacctmgr show associations user=$USER",
        *("InvalidAccount", "AccountNotAllowed"),
    ),
    *_reasons(
        False,
        "set slurm.qos to one of: sacctmgr show associations user=$USER format=qos",
        *("InvalidQOS", "QOSNotAllowed"),
    ),
    *_reasons(
        False,
        "slurm.timeout_min is over what one job may ask for",
        *("QOSMaxWallDurationPerJobLimit", "AssocMaxWallDurationPerJobLimit"),
    ),
    *_reasons(
        False,
        "asks for more than one job may: lower slurm.cpus_per_task, memory_gb, gres or timeout_min",
        *("QOSMax*PerJob*", "QOSMax*PerNode*", "AssocMax*PerJob*", "AssocMax*PerNode*", "MaxMemPerLimit"),
    ),
    *_reasons(False, "asks for less than the QOS wants: raise the request or change slurm.qos", "QOSMin*"),
    *_reasons(
        True,
        "you have as many jobs as allowed: the next one starts when one ends",
        *("QOSMaxJobsPer*", "QOSMaxSubmit*", "AssocMaxJobsLimit", "AssocMaxSubmit*"),
        *("MaxJobsPerAccount", "MaxSubmitJobsPerAccount", "QOSJobLimit", "AssociationJobLimit"),
    ),
    *_reasons(
        True,
        "you use as much at once as the QOS allows: starts when jobs end",
        *("QOSMax*PerUser*", "QOSResourceLimit", "Max*PerAccount"),
    ),
    *_reasons(
        True,
        "running jobs of your group have booked all minutes it may book at once: a shorter slurm.timeout_min may fit",
        *("AssocGrp*RunMinutes*", "QOSGrp*RunMinutes*"),
    ),
    *_reasons(
        True,
        "the budget of the account or QOS is used up: starts when it is filled again; see sshare, or ask the site",
        *("AssocGrp*Minutes*", "QOSGrp*Minutes*", "AssocGrpWallLimit", "QOSGrpWallLimit"),
        *("QOSTimeLimit", "QOSUsageThreshold", "AssociationTimeLimit"),
    ),
    *_reasons(
        True,
        "your group uses as much as it may at once: starts when its jobs end",
        *("AssocGrp*", "QOSGrp*", "AssociationResourceLimit", "AccountingPolicy"),
    ),
    *_reasons(True, "its files are being copied", "BurstBufferStageIn", "BurstBufferResources"),
    *_reasons(False, "copying its files failed: see the burst buffer in slurm.extra_sbatch", "BurstBufferOperation"),
    *_reasons(True, "the site is short of power", "PowerNotAvail", "PowerReserved"),
    *_reasons(False, "can't finish before its deadline: remove it from slurm.extra_sbatch", "DeadLine"),
    *_reasons(True, "Slurm or a file system has a fault: wait; if it stays, tell the site", "SystemFailure"),
    *_reasons(True, "the system's limit for idle jobs was reached", "InactiveLimit"),
)

PHASES = {rule.word: rule.phase for rule in STATE_RULES}
_ADVICE = {rule.word: rule.advice for rule in STATE_RULES}
# a node that kills a job for its memory without cgroups calls that a failed launch
_FAILURES = {"JobLaunchFailure": "could not be launched, or was killed for its memory: see its log, slurm.memory_gb"}
_NO_REASON = ("", "none", "unknown", "n/a")


def _pattern(reason: str) -> re.Pattern[str]:
    """What follows a whole word of the reason, as the names of missing nodes, is no part of it."""
    text = re.escape(reason).replace(r"\ \*", r"\b.*").replace(r"\*", r"[\w ]*")
    return re.compile(rf"{text}(?!\w)", flags=re.IGNORECASE)


_PATTERNS = tuple((_pattern(rule.reason), rule) for rule in REASON_RULES)


@lru_cache(maxsize=1024)
def reason_rule(reason: str) -> ReasonRule | None:
    """The rule for the reason of a pending job as squeue prints it; None where there is no reason or no rule."""
    plain = reason.replace("_", " ").strip(" ()")
    return next((rule for pattern, rule in _PATTERNS if pattern.match(plain)), None)


def never_starts(reason: str) -> str | None:
    """What helps a pending job with this reason; None when it starts by itself some day (as ReqNodeNotAvail)."""
    rule = reason_rule(reason)
    return None if rule is None or rule.starts else rule.advice


def note(word: str, reason: str) -> str:
    """One line on a job in this state with this reason, empty where there is nothing to say."""
    phase = PHASES.get(word)
    if phase is None:
        return f"{word}: a state this program does not know; the unit waits until Slurm shows another one"
    rule = reason_rule(reason)
    if phase is Phase.HELD or (phase is Phase.WAITING and rule and not rule.starts):
        return f"{word} ({reason}): {rule.advice if rule and not rule.starts else _ADVICE[word]}"
    if phase is Phase.WAITING:
        said = "" if reason.lower() in _NO_REASON else f"waits: {reason}{f' ({rule.advice})' if rule else ''}"
        return said or (f"{word}: {_ADVICE[word]}" if _ADVICE[word] else "")
    if word == "FAILED" and reason in _FAILURES:
        return f"{word} ({reason}): {_FAILURES[reason]}"
    return f"{word}: {_ADVICE[word]}" if _ADVICE[word] else ""


def markdown() -> str:
    """Both tables, for the documentation."""
    states = [f"| {r.word} | {r.phase.value} | {LOOP[r.phase]} | {r.advice or '-'} |" for r in STATE_RULES]
    reasons = [f"| {r.reason} | {'yes' if r.starts else 'no'} | {r.advice} |" for r in REASON_RULES]
    return "\n".join(
        [
            "| job state | phase | what the loop does | what it means, what to do |",
            "|---|---|---|---|",
            *states,
            "",
            "| pending reason | starts by itself | what it means, what to do |",
            "|---|---|---|",
            *reasons,
        ]
    )


if __name__ == "__main__":
    print(markdown())

"""States: from what squeue and sacct print, and what the files of a unit say, to how the unit stands. Pure functions.

The result file is the truth about success, squeue is the truth about what is active, and sacct only tells how something
ended that squeue has forgotten: a row of sacct may be an attempt that was requeued, or a job that slurmctld lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from slurm.units import Evidence, UnitState

# every row ends with a mark of its own, since a comment may hold line ends and a cut answer must be noticed
SQUEUE_FORMAT = "%F|%K|%T|%r|%j|%k|."
SACCT_FORMAT = "JobID,State,JobName"
_ROW_END = "|.\n"


class Phase(Enum):
    """What one row says about an array element."""

    WAITING = "waiting"
    RUNNING = "running"
    HELD = "held"
    OVER = "over"  # not active any more; how it went is told by its files
    UNKNOWN = "unknown"


PHASES = {
    "PENDING": Phase.WAITING,
    "CONFIGURING": Phase.WAITING,  # the nodes are booting
    "REQUEUED": Phase.WAITING,
    "REQUEUE_FED": Phase.WAITING,
    "REQUEUE_HOLD": Phase.HELD,
    "SPECIAL_EXIT": Phase.HELD,
    "RESV_DEL_HOLD": Phase.HELD,
    "RUNNING": Phase.RUNNING,
    "COMPLETING": Phase.RUNNING,  # processes may be alive, and after a preemption it goes on to PENDING
    "SUSPENDED": Phase.RUNNING,  # keeps its processes; the heartbeat stands still
    "STOPPED": Phase.RUNNING,
    "RESIZING": Phase.RUNNING,
    "SIGNALING": Phase.RUNNING,
    "STAGE_OUT": Phase.RUNNING,
    "COMPLETED": Phase.OVER,
    "FAILED": Phase.OVER,
    "CANCELLED": Phase.OVER,
    "TIMEOUT": Phase.OVER,
    "OUT_OF_MEMORY": Phase.OVER,
    "NODE_FAIL": Phase.OVER,  # a requeued job is PENDING in squeue, so this word in squeue is final
    "BOOT_FAIL": Phase.OVER,
    "DEADLINE": Phase.OVER,
    "PREEMPTED": Phase.OVER,  # PreemptMode=CANCEL; a requeued job is PENDING in squeue
    "REVOKED": Phase.UNKNOWN,  # another cluster of the federation runs it, and can't be seen from here
}

_ENDINGS = {
    "TIMEOUT": "reached its time limit; raise slurm.timeout_min or make units smaller",
    "OUT_OF_MEMORY": "was killed for its memory; raise slurm.memory_gb",
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "its node did not boot",
    "PREEMPTED": "was preempted and not requeued",
    "CANCELLED": "was cancelled",
    "DEADLINE": "could not finish before its deadline",
    "FAILED": "ended with an error; its log says more",
    "COMPLETED": "ended normally, but left no result",
    "REVOKED": "was taken over by another cluster of the federation; name one cluster in slurm.extra_sbatch",
}

# reasons after which a pending job never starts by itself, and what helps
_NEVER = (
    (r"JobHeldUser", "held by the user: scontrol release <job>"),
    (r"JobHeldAdmin", "held by an administrator: ask the site"),
    (r"JobHoldMaxRequeue", "requeued too often: look for broken nodes, then scontrol release <job>"),
    (r"launch[ _]failed[ _]requeued[ _]held", "its launch failed: look for broken nodes, then scontrol release <job>"),
    (r"requeued in held state", "requeued and held: scontrol release <job> lets it start"),
    (r"DependencyNeverSatisfied", "waits for a job that failed: cancel it"),
    (r"BadConstraints", "no node has what slurm.constraint asks for"),
    (r"InvalidAccount|AccountNotAllowed", "set slurm.account to one of: sacctmgr show associations user=$USER"),
    (r"InvalidQOS|QOSNotAllowed", "set slurm.qos to one of: sacctmgr show associations user=$USER format=qos"),
    (r"PartitionTimeLimit", "slurm.timeout_min is over the limit of the partition: see sinfo -o '%P %l'"),
    (r"PartitionNodeLimit", "the partition gives fewer nodes than asked for"),
    (r"(QOS|Assoc)Max\w+PerJob|QOSMin\w+|MaxMemPerLimit", "asks for more or less than one job may"),
    (r"ReservationDeleted", "its reservation is gone: remove it from slurm.extra_sbatch"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayRow:
    """One row about elements of a job array. `open_ended`: the list of indices was cut short by Slurm."""

    job_id: str
    indices: tuple[range, ...]
    open_ended: bool
    word: str
    reason: str
    name: str
    comment: str

    @property
    def phase(self) -> Phase:
        phase = PHASES.get(self.word, Phase.UNKNOWN)
        return Phase.HELD if phase is Phase.WAITING and never_starts(self.reason) else phase

    def note(self) -> str:
        """One line for a person, empty where there is nothing to say."""
        if self.phase is Phase.HELD:
            return f"{self.word} ({self.reason}): {never_starts(self.reason) or 'scontrol release <job> lets it start'}"
        if self.phase is Phase.WAITING:
            return "" if self.reason in ("None", "Unknown", "") else f"waits: {self.reason}"
        if self.phase is Phase.RUNNING:
            return ""
        return f"{self.word}: {_ENDINGS.get(self.word, 'a state this program does not know')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The rows of one answer. `whole` is false when a part could not be read: then an absent element proves nothing."""

    rows: tuple[ArrayRow, ...]
    whole: bool


def parse_squeue(text: str) -> Answer:
    """Read the output of `squeue --noheader --states=all --format=SQUEUE_FORMAT`; only arrays count."""
    *records, rest = text.split(_ROW_END)
    rows: list[ArrayRow] = []
    whole = not rest.strip()
    for record in records:
        fields = record.split("|", 5)
        if len(fields) != 6 or not fields[0].strip().isdigit() or not fields[2].strip():
            whole = False
            continue
        job_id, spec, word, reason, name, comment = fields
        if spec.strip() in ("N/A", ""):
            continue
        indices = parse_indices(spec.strip())
        if indices is None:
            whole = False
            continue
        rows.append(_row(job_id.strip(), indices, word=word, reason=reason, name=name, comment=comment))
    return Answer(rows=tuple(rows), whole=whole)


def parse_sacct(text: str) -> Answer:
    """Read the output of `sacct -n -P -D -X --format=SACCT_FORMAT`; later rows of an element are later attempts."""
    rows: list[ArrayRow] = []
    whole = text.endswith("\n") or not text
    for line in text.splitlines():
        fields = line.split("|", 2)
        match = re.fullmatch(r"(\d+)(?:_\[(.+)\]|_(\d+))?", fields[0].strip())
        if len(fields) != 3 or match is None or not fields[1].strip():
            whole = False
            continue
        job_id, several, one = match.groups()
        spec = several or one
        indices = parse_indices(spec) if spec else None
        if indices is not None:
            rows.append(_row(job_id, indices, word=fields[1], reason="", name=fields[2], comment=""))
    return Answer(rows=tuple(rows), whole=whole)


def parse_indices(text: str) -> tuple[tuple[range, ...], bool] | None:
    """Ranges in "7", "4-9", "1,3,5-8%2", "0-8:4"; the bool: Slurm cut the list with "...". None: not a list."""
    body = text.strip().removeprefix("[").removesuffix("]").split("%", 1)[0]
    cut = body.endswith("...")
    if cut:
        # the last number before the dots may be cut in two
        body = body.removesuffix("...").rpartition(",")[0]
    ranges = []
    for part in filter(None, body.split(",")):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part.strip())
        if match is None:
            return None
        first, last, step = (int(group) if group else None for group in match.groups())
        if first is None or step == 0:
            return None
        ranges.append(range(first, (first if last is None else last) + 1, step or 1))
    if not ranges and not cut:
        return None
    return tuple(ranges), cut


def never_starts(reason: str) -> str | None:
    """What helps a pending job with this reason; None when it starts by itself some day (as ReqNodeNotAvail)."""
    for pattern, advice in _NEVER:
        if re.search(pattern, reason):
            return advice
    return None


def rows_of_elements(rows: Iterable[ArrayRow], count: int) -> list[ArrayRow | None]:
    """The row that counts for each element 0..count-1, among the rows of one array; None where no row is about it.

    A row that names the element goes before one whose list was cut, the last row before earlier ones, and any row
    before REVOKED (the other row is the cluster that runs it).
    """
    named: list[ArrayRow | None] = [None] * count
    cut: ArrayRow | None = None
    for row in rows:
        cut = row if row.open_ended else cut
        for part in row.indices:
            for index in range(part.start, min(part.stop, count), part.step):
                if named[index] is None or row.word != "REVOKED":
                    named[index] = row
    return [row or cut for row in named]


def is_alive(evidence: Evidence, *, now_unix: float, fresh_s: float) -> bool:
    """Whether the files say that a process of the unit lives. A heartbeat from far in the future is a wrong clock."""
    if evidence.running:
        return True
    return evidence.heartbeat_unix is not None and abs(now_unix - evidence.heartbeat_unix) < fresh_s


def judge(
    evidence: Evidence, phase: Phase | None, *, alive: bool, missing_s: float | None, grace_s: float
) -> UnitState:
    """How a unit stands.

    Args:
        evidence: what its files say.
        phase: what Slurm says of it; None when Slurm answered and does not know it.
        alive: what is_alive says.
        missing_s: for how long Slurm has not known the unit as active; None when Slurm did not answer.
        grace_s: how long a result may take to become visible on a network file system, and a node declared dead may
            go on computing.
    """
    if evidence.done:
        return UnitState.DONE
    if phase is Phase.HELD:
        return UnitState.HELD
    if phase is Phase.WAITING:
        return UnitState.WAITING
    if phase is Phase.RUNNING or alive:
        return UnitState.RUNNING
    if phase is Phase.UNKNOWN or missing_s is None:
        return UnitState.UNKNOWN
    if missing_s < grace_s:
        return UnitState.RUNNING if phase is Phase.OVER else UnitState.UNKNOWN
    return UnitState.ENDED


def _row(
    job_id: str, indices: tuple[tuple[range, ...], bool], *, word: str, reason: str, name: str, comment: str
) -> ArrayRow:
    # sacct says "CANCELLED by 1000", and some versions append "+" to a word that was cut
    plain = word.strip().split(" ", 1)[0].rstrip("+").upper()
    return ArrayRow(
        job_id=job_id,
        indices=indices[0],
        open_ended=indices[1],
        word=plain,
        reason=reason.strip(),
        name=name.strip(),
        comment=comment.strip(),
    )

"""States: from what squeue and sacct print, and what the files of a unit say, to how the unit stands. Pure functions.

The result file is the truth about success, squeue is the truth about what is active, and sacct only tells how something
ended that squeue has forgotten: a row of sacct may be an attempt that was requeued, or a job that slurmctld lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from slurm import advice
from slurm.advice import PHASES, Phase, never_starts
from slurm.units import Evidence, UnitState

__all__ = [
    "PHASES",
    "SACCT_FORMAT",
    "SQUEUE_FORMAT",
    "Answer",
    "ArrayRow",
    "Phase",
    "is_alive",
    "judge",
    "never_starts",
    "parse_indices",
    "parse_sacct",
    "parse_squeue",
    "rows_of_elements",
]

# every row ends with a mark of its own, since a comment may hold line ends and a cut answer must be noticed
SQUEUE_FORMAT = "%F|%K|%T|%r|%j|%k|."
SACCT_FORMAT = "JobID,State,JobName"
_ROW_END = "|.\n"
_SACCT_ID = re.compile(r"(\d+)(?:_\[(.+)\]|_(\d+))?(?:\+\d+)?(?:\.(\w+))?")
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")


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
        """One line for the user, empty where there is nothing to say."""
        return advice.note(self.word, self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The rows of one answer. `whole` is false when a part could not be read: then an absent element proves nothing.

    `singles` are about jobs that are no arrays; their `indices` are empty.
    """

    rows: tuple[ArrayRow, ...]
    whole: bool
    singles: tuple[ArrayRow, ...] = ()


def parse_squeue(text: str) -> Answer:
    """Read the output of `squeue --noheader --states=all --format=SQUEUE_FORMAT`."""
    *records, rest = text.split(_ROW_END)
    rows: list[ArrayRow] = []
    singles: list[ArrayRow] = []
    whole = not rest.strip()
    for record in records:
        fields = record.split("|", 5)
        if len(fields) != 6 or not fields[0].strip().isdigit() or not fields[2].strip():
            whole = False
            continue
        job_id, spec, word, reason, name, comment = fields
        if spec.strip() in ("N/A", ""):
            singles.append(_row(job_id.strip(), ((), False), word=word, reason=reason, name=name, comment=comment))
            continue
        indices = parse_indices(spec.strip())
        if indices is None:
            whole = False
            continue
        rows.append(_row(job_id.strip(), indices, word=word, reason=reason, name=name, comment=comment))
    return Answer(rows=tuple(rows), whole=whole, singles=tuple(singles))


def parse_sacct(text: str) -> Answer:
    """Read the output of `sacct -n -P -D --format=SACCT_FORMAT`; later rows of an element are later attempts.

    The rows of its steps follow the row of an attempt. Under cgroups only a step says OUT_OF_MEMORY: then the whole
    attempt, which says FAILED, does so too.
    """
    rows: list[ArrayRow] = []
    singles: list[ArrayRow] = []
    latest: list[ArrayRow] = []
    whole = text.endswith("\n") or not text
    for line in text.splitlines():
        fields = line.split("|", 2)
        match = _SACCT_ID.fullmatch(fields[0].strip())
        if len(fields) != 3 or match is None or not fields[1].strip():
            whole = False
            continue
        job_id, several, one, step = match.groups()
        if step is not None:
            if latest and fields[1].startswith("OUT_OF_ME") and _is_failed(latest[-1], job_id, one):
                latest[-1] = replace(latest[-1], word="OUT_OF_MEMORY")
            continue
        spec = several or one
        indices = parse_indices(spec) if spec else ((), False)
        latest = rows if spec else singles
        if indices is not None:
            latest.append(_row(job_id, indices, word=fields[1], reason="", name=fields[2], comment=""))
    return Answer(rows=tuple(rows), whole=whole, singles=tuple(singles))


def parse_indices(text: str) -> tuple[tuple[range, ...], bool] | None:
    """Ranges in "7", "4-9", "1,3,5-8%2", "0-8:4"; the bool: Slurm cut the list with "...". None: not a list."""
    if text.isdecimal():
        return (range(int(text), int(text) + 1),), False
    body = text.strip().removeprefix("[").removesuffix("]").split("%", 1)[0]
    cut = body.endswith("...")
    if cut:
        # the last number before the dots may be cut in two
        body = body.removesuffix("...").rpartition(",")[0]
    ranges = []
    for part in filter(None, body.split(",")):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            return None
        first, last, step = (int(group) if group else None for group in match.groups())
        if first is None or step == 0:
            return None
        ranges.append(range(first, (first if last is None else last) + 1, step or 1))
    if not ranges and not cut:
        return None
    return tuple(ranges), cut


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


def _is_failed(row: ArrayRow, job_id: str, index: str | None) -> bool:
    """Whether the row says that this one element failed; `index` None: this job that is no array."""
    element = () if index is None else (range(int(index), int(index) + 1),)
    return row.word == "FAILED" and row.job_id == job_id and row.indices == element


def _row(
    job_id: str, indices: tuple[tuple[range, ...], bool], *, word: str, reason: str, name: str, comment: str
) -> ArrayRow:
    # sacct says "CANCELLED by 1000", and some versions append "+" to a word that was cut
    plain = word.strip().split(" ", 1)[0].rstrip("+").upper()
    if plain == "FAILED" and reason.startswith("OutOfMemory"):
        plain = "OUT_OF_MEMORY"
    return ArrayRow(
        job_id=job_id,
        indices=indices[0],
        open_ended=indices[1],
        word=plain,
        reason=reason.strip(),
        name=name.strip(),
        comment=comment.strip(),
    )

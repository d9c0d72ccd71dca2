"""The watcher: how each unit of a submission stands, from one answer of squeue and the evidence of its files."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slurm.client import SlurmClient
from slurm.errors import SlurmError
from slurm.files import Desk, write_atomic
from slurm.gate import Snapshot
from slurm.states import ArrayRow, Phase, is_alive, judge, rows_of_elements
from slurm.units import Evidence, Submission, UnitState
from slurm.waves import Waves

_CANCELLED = "was cancelled before it was submitted"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """What Slurm says of the units of one submission.

    `rows`: the row of each, None for one that no row is about; `phases`: what these rows say.
    `early`: units whose absence says nothing, because they were submitted after the question or are not submitted
    yet; `left_out`: those of the latter.
    """

    rows: dict[str, ArrayRow | None]
    phases: dict[str, Phase | None]
    early: set[str]
    left_out: set[str]


class Watcher:
    """Remembers, for each submission, since when its units are missing and what was noted last."""

    def __init__(
        self,
        client: SlurmClient,
        *,
        grace_s: float,
        clock: Callable[[], float],
        has_accounting: Callable[[], bool],
    ) -> None:
        self._client = client
        self._grace_s = grace_s
        self._clock = clock
        self._has_accounting = has_accounting
        self._missing: dict[str, dict[str, float]] = {}
        self._notes: dict[str, dict[str, str]] = {}

    def states(
        self,
        submission: Submission,
        waves: Waves,
        evidence: Mapping[str, Evidence],
        seen: Snapshot,
        *,
        reason: str,
    ) -> dict[str, UnitState]:
        """How each unit of `evidence` stands. `reason`: why some are not submitted yet."""
        watched = _watch(submission, waves, evidence, seen)
        missing = self._missing_since(submission, evidence, watched, seen)
        now_unix, taken_unix, is_cancelled = self._clock(), seen.look.taken_unix, waves.is_cancelled()
        states = {}
        for unit, each in evidence.items():
            if each.done:
                states[unit] = UnitState.DONE
                continue
            phase = watched.phases[unit]
            missing_s = taken_unix - missing[unit] if seen.is_whole and unit in missing else None
            if is_cancelled and unit in watched.left_out:
                missing_s = math.inf
            elif phase is None and unit in watched.early:
                phase = Phase.WAITING
            alive = is_alive(each, now_unix=now_unix, fresh_s=self._grace_s)
            states[unit] = judge(each, phase, alive=alive, missing_s=missing_s, grace_s=self._grace_s)
        self._notes[submission.comment] = self._make_notes(
            submission, waves, watched, states, unknown=seen.look.problem or _NOT_KNOWN, reason=reason
        )
        return states

    def notes(self, submission: Submission) -> dict[str, str]:
        return dict(self._notes.get(submission.comment, {}))

    def forget(self, submission: Submission) -> None:
        """Every unit has its result: there is nothing to tell any more."""
        self._notes.pop(submission.comment, None)

    def _missing_since(
        self, submission: Submission, evidence: Mapping[str, Evidence], watched: _Watched, seen: Snapshot
    ) -> dict[str, float]:
        """Since when each unit without result is not active; kept in a file for a driver that is started anew."""
        path = Desk(Path(submission.folder), submission.comment).missing
        before = self._missing.get(submission.comment)
        if before is None:
            before = _read_missing(path)
        now = before
        if seen.is_whole:
            now = {
                # min: a clock that was set back starts the grace period anew
                unit: min(before.get(unit, math.inf), seen.look.taken_unix)
                for unit, each in evidence.items()
                if not each.done and unit not in watched.early and watched.phases[unit] in (None, Phase.OVER)
            }
        if now != before:
            # without the file, a driver that starts anew only waits once more
            with contextlib.suppress(SlurmError):
                write_atomic(path, json.dumps(now).encode())
        self._missing[submission.comment] = now
        return now

    def _make_notes(
        self,
        submission: Submission,
        waves: Waves,
        watched: _Watched,
        states: Mapping[str, UnitState],
        *,
        unknown: str,
        reason: str,
    ) -> dict[str, str]:
        unclear = [
            unit
            for unit, state in states.items()
            if state is UnitState.ENDED and _is_unclear(watched.rows[unit]) and unit not in watched.left_out
        ]
        remembered = self._remembered(submission, waves, unclear) if unclear else {}
        said: dict[int, str] = {}
        notes = {}
        for unit, state in states.items():
            row, past = watched.rows[unit], remembered.get(unit)
            if past is not None and (row is None or past.word != row.word):
                row = past
            if state is UnitState.DONE:
                continue
            if unit in watched.left_out and state in (UnitState.WAITING, UnitState.ENDED):
                notes[unit] = _CANCELLED if state is UnitState.ENDED else f"not submitted yet: {reason}"
            elif state is UnitState.UNKNOWN:
                notes[unit] = row.note() if row else unknown
            elif state is UnitState.ENDED and (row is None or row.phase is not Phase.OVER):
                notes[unit] = "Slurm does not know it any more"
            elif row is not None:
                # one row is about many elements
                note = said.get(id(row)) or said.setdefault(id(row), row.note())
                if note:
                    notes[unit] = note
        return notes

    def _remembered(self, submission: Submission, waves: Waves, units: Sequence[str]) -> dict[str, ArrayRow | None]:
        """What the accounting says about units whose end squeue does not tell; nothing where there is none."""
        if not self._has_accounting():
            return {}
        look = self._client.accounts([array.job_id for array in waves.arrays])
        rows: dict[str, list[ArrayRow]] = {}
        for row in look.answer.rows:
            rows.setdefault(row.job_id, []).append(row)
        return _rows_of_units(submission, waves, units, rows)


_NOT_KNOWN = "Slurm does not know it; it is asked again before the unit counts as ended"


def _watch(submission: Submission, waves: Waves, units: Iterable[str], seen: Snapshot) -> _Watched:
    rows = _rows_of_units(submission, waves, units, seen.rows)
    left_out = set(submission.units[waves.next_offset :]) if waves.plan is not None else set()
    early = set(left_out)
    for array in waves.arrays:
        # what was asked before the submission can't know it
        if max(array.submitted_unix, submission.submitted_unix) >= seen.look.taken_unix:
            early.update(submission.units[array.offset : array.offset + array.count])
    # one row is about many elements
    of_row = {id(row): row.phase if row else None for row in {id(row): row for row in rows.values()}.values()}
    phases = {unit: of_row[id(row)] for unit, row in rows.items()}
    return _Watched(rows=rows, phases=phases, early=early, left_out=left_out)


def _rows_of_units(
    submission: Submission, waves: Waves, units: Iterable[str], rows: Mapping[str, Sequence[ArrayRow]]
) -> dict[str, ArrayRow | None]:
    """The row of each wanted unit; None for one that no row is about."""
    found: dict[str, ArrayRow | None] = dict.fromkeys(units)
    for array in waves.arrays:
        # a job has one name and one comment, so that its first row tells whose it is
        of_array = rows.get(array.job_id, ())
        if of_array and waves.owns(of_array[0]):
            names = submission.units[array.offset : array.offset + array.count]
            of_elements = zip(names, rows_of_elements(of_array, array.count), strict=True)
            found.update({unit: row for unit, row in of_elements if unit in found})
    return found


def _is_unclear(row: ArrayRow | None) -> bool:
    """Of a job that failed, a row of sacct about one of its steps may tell why."""
    return row is None or row.word == "FAILED"


def _read_missing(path: Path) -> dict[str, float]:
    try:
        return {str(unit): float(since) for unit, since in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}

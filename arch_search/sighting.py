"""The sighting: what the driver last saw of its arrays, left in a file so that `status` need not ask Slurm itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from arch_search.analysis.costs import Budget
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.records import canonical_json, from_json, to_json
from slurm.units import ArrayJob, Submission, UnitState

REFRESH_S = 10.0  # an unchanged sighting is left anew after this, so that its age tells whether the driver lives


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayLine:
    """One job array. `job_id` is empty for elements not submitted yet, and the launcher's kind for local processes.

    `states` and `notes` count elements; `timeout_min` is the wall time each asks for.
    """

    job_id: str
    elements: int
    timeout_min: int
    states: dict[str, int]
    notes: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """The arrays of one submission round, as of `unix` seconds since 1970."""

    unix: float
    generation: int
    round: int
    lines: tuple[ArrayLine, ...]
    budget: Budget


def array_lines(
    submission: Submission,
    arrays: Sequence[ArrayJob],
    states: Mapping[str, UnitState],
    notes: Mapping[str, str],
    *,
    timeout_min: int,
) -> tuple[ArrayLine, ...]:
    """One line for each array, in order, and a last one for the units that are in none yet."""
    groups = [(array.job_id, submission.units[array.offset : array.offset + array.count]) for array in arrays]
    covered = {unit for _, units in groups for unit in units}
    rest = tuple(unit for unit in submission.units if unit not in covered)
    if rest:
        groups.append(("" if submission.kind == "cluster" else submission.kind, rest))
    return tuple(
        ArrayLine(
            job_id=job_id,
            elements=len(units),
            timeout_min=timeout_min,
            states=dict(Counter(states[unit].value for unit in units if unit in states)),
            notes=dict(Counter(notes[unit] for unit in units if unit in notes)),
        )
        for job_id, units in groups
    )


def leave_sighting(path: Path, sighting: Sighting, *, before: Sighting | None) -> Sighting:
    """Write what is seen now where it differs from `before` or that one is old; returns what the file says then."""
    if before is not None and sighting.unix - before.unix < REFRESH_S and _same(sighting, before):
        return before
    write_atomic(path, canonical_json(to_json(sighting)).encode())
    return sighting


def read_sighting(path: Path) -> Sighting | None:
    """The last sighting; None where there is none that can be read."""
    try:
        return from_json(Sighting, read_json(path))
    except (StoreError, ValidationError):
        return None


def _same(one: Sighting, other: Sighting) -> bool:
    return (one.generation, one.round, one.lines) == (other.generation, other.round, other.lines)

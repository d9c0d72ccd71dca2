"""What the Analyst is given to word: the computed outcome of a candidate, and the numbers behind it as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from arch_search.analysis.statistics import Standing, standings
from arch_search.analysis.text import interval, short, signed
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Candidate, Lesson

_SIBLINGS = 6
_WORDS = {
    "better": "better than the reference beyond noise",
    "worse": "worse than the reference beyond noise",
    "within_noise": "not different from the reference beyond noise",
    "not_measured": "not measured",
}


def computed_lesson(
    contents: ArchiveContents, candidate: Candidate, *, reference_id: str, metric: str, confidence: float
) -> Lesson:
    """The lesson of a candidate before any model has worded it: outcome and difference, empty text."""
    rows = standings(contents, reference_id=reference_id, metric=metric, confidence=confidence)
    standing = next(row for row in rows if row.candidate_id == candidate.id)
    return Lesson(
        candidate_id=candidate.id,
        generation=candidate.generation,
        outcome=standing.verdict,
        difference=standing.improvement,
        text="",
    )


def numbers_for_analyst(
    contents: ArchiveContents, candidate: Candidate, *, reference_id: str, metric: str, confidence: float
) -> str:
    """Candidate, parents, siblings and reference with intervals, one line each, verdict in words."""
    rows = standings(contents, reference_id=reference_id, metric=metric, confidence=confidence)
    by_id = {row.candidate_id: row for row in rows}
    siblings = [
        by_id[other.id]
        for other in contents.candidates
        if other.id != candidate.id and set(other.parents) & set(candidate.parents)
    ]
    lines = [
        f"Metric: {metric}. Improvement is over the reference; positive is better.",
        _line("candidate", by_id[candidate.id]),
    ]
    lines += [
        _line("parent", by_id[parent]) for parent in candidate.parents if parent in by_id and parent != reference_id
    ]
    lines += [_line("sibling", row) for row in _nearest(siblings)]
    if reference_id in by_id:
        role = "reference, also the parent" if reference_id in candidate.parents else "reference"
        reference = by_id[reference_id]
        lines.append(f"{role}: {short(reference.name, 60)}: mean {reference.mean:.4f} over {reference.n} seeds")
    return "\n".join(lines)


def _nearest(siblings: Sequence[Standing]) -> list[Standing]:
    """The measured siblings ranked highest; the others say nothing."""
    measured = [row for row in siblings if math.isfinite(row.improvement)]
    return sorted(measured, key=lambda row: (-row.improvement, row.candidate_id))[:_SIBLINGS]


def _line(role: str, row: Standing) -> str:
    named = f"{role}: {short(row.name, 60)}"
    if not math.isfinite(row.improvement):
        return f"{named}: not measured ({row.note})"
    bounds = interval(row.low, row.high, digits=4)
    numbers = (
        f"mean {row.mean:.4f} over {row.n} seeds, improvement {signed(row.improvement, digits=4)} {bounds}".rstrip()
    )
    return f"{named}: {numbers}: {_WORDS[row.verdict]}"

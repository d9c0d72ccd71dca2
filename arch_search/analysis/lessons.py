"""What the Analyst is given to word: the computed outcome of a candidate, and the numbers behind it as text."""

from __future__ import annotations

import math

from arch_search.analysis.relatives import Measured
from arch_search.analysis.statistics import Standing, Verdict
from arch_search.analysis.summary import METRIC_WORDS
from arch_search.analysis.text import interval, short, signed
from arch_search.proposals.difference import describe_difference
from arch_search.proposals.registry import BY_HOOK
from arch_search.selection.families import family_of
from cognition_db.records import Candidate, Lesson

_CHANGE = 120  # columns of the change of a relative
WORDS: dict[Verdict, str] = {
    "better": "better than the reference beyond noise",
    "worse": "worse than the reference beyond noise",
    "within_noise": "not different from the reference beyond noise",
    "not_measured": "not measured",
}


def computed_lesson(measured: Measured, candidate: Candidate) -> Lesson:
    """The lesson of a candidate before any model has worded it: outcome and difference, empty text."""
    standing = measured.standings[candidate.id]
    return Lesson(
        candidate_id=candidate.id,
        generation=candidate.generation,
        outcome=standing.verdict,
        difference=standing.improvement,
        text="",
    )


def numbers_for_analyst(measured: Measured, candidate: Candidate) -> str:
    """Candidate, relatives and reference with intervals, one line each, verdict in words, and what each changed."""
    lines = [
        f"Metric: {measured.metric}. Improvement is over the reference; positive is better.",
        _line("candidate", measured.standings[candidate.id]),
    ]
    for role, relatives in (
        ("parent", measured.parents(candidate)),
        ("grandparent", measured.grandparents(candidate)),
        ("sibling", measured.siblings(candidate)),
        ("cousin", measured.cousins(candidate)),
    ):
        for one in relatives:
            lines.append(f"{_line(role, measured.standings[one.id])}{_change(role, one, candidate)}")
    reference = measured.standings[measured.reference_id]
    role = "reference, also the parent" if measured.reference_id in candidate.parents else "reference"
    lines.append(f"{role}: {short(reference.name, 60)}: mean {reference.mean:.4f} over {reference.n} seeds")
    return "\n".join(lines)


def outcome_as_symptom(lesson: Lesson, program: Candidate, reference: Candidate, *, metric: str) -> str:
    """What was measured, and of which parts, in words that a search in the literature can use."""
    if lesson.outcome == "not_measured":
        return ""
    changed = family_of(program.program, reference.program)
    parts = "; ".join(f"{name.replace('_', ' ')}, {BY_HOOK[name].purpose}" for name in changed if name in BY_HOOK)
    return f"{METRIC_WORDS[metric]} {WORDS[lesson.outcome]}; changed: {parts or 'the whole program'}"


def _change(role: str, relative: Candidate, candidate: Candidate) -> str:
    """What the relative changed; of a grandparent, what the candidate changes against it."""
    if role == "grandparent":
        change = describe_difference(relative.program, candidate.program)
        return f"; the candidate changes against it: {short(change, _CHANGE)}"
    return f"; it changed: {short(relative.motivation, _CHANGE)}" if relative.motivation else ""


def _line(role: str, row: Standing) -> str:
    named = f"{role}: {short(row.name, 60)}"
    if not math.isfinite(row.improvement):
        return f"{named}: not measured ({row.note})"
    bounds = interval(row.low, row.high, digits=4)
    numbers = (
        f"mean {row.mean:.4f} over {row.n} seeds, improvement {signed(row.improvement, digits=4)} {bounds}".rstrip()
    )
    return f"{named}: {numbers}: {WORDS[row.verdict]}"

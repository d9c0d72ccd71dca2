"""One candidate as text for a terminal: standing, lineage, checks, runs, lesson, program."""

from __future__ import annotations

import math
from collections.abc import Sequence

from arch_search.analysis.by_hand import writing_of
from arch_search.analysis.statistics import Standing, standings
from arch_search.analysis.text import duration, interval, number, short, signed, sparkline
from arch_search.clean_text import clean, one_line
from arch_search.errors import CampaignError
from arch_search.proposals.growth import Growth
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Analysis, Candidate, Certificate, Evaluation

_LEVELS = 50


def find_candidate(contents: ArchiveContents, prefix: str) -> Candidate:
    """The one candidate whose id starts with `prefix`, or whose name is `prefix`; raises CampaignError otherwise."""
    found = [row for row in contents.candidates if prefix and row.id.startswith(prefix)]
    found = found or [row for row in contents.candidates if row.name == prefix]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CampaignError(
            f"no candidate {short(prefix, 40)!r} among {len(contents.candidates)}; `arch-search report` lists the ids"
        )
    listed = ", ".join(row.id for row in found[:5])
    raise CampaignError(f"{short(prefix, 40)!r} fits {len(found)} candidates ({listed}); give more digits of the id")


def show_text(
    contents: ArchiveContents, candidate: Candidate, *, reference_id: str, metric: str, confidence: float
) -> str:
    """Everything recorded about the candidate. Control characters of its program cannot reach the terminal."""
    rows = {
        row.candidate_id: row
        for row in standings(contents, reference_id=reference_id, metric=metric, confidence=confidence)
    }
    sections = [
        _head(candidate, rows[candidate.id], metric),
        _section("Lineage", _lineage(contents, candidate, rows)),
        _section("Checks", [_check(verdict.check, verdict.outcome, verdict.reason) for verdict in candidate.verdicts]),
        _section("Runs", [_run(run, metric) for run in contents.evaluations if run.task.candidate_id == candidate.id]),
        _section("Lesson", _lessons(contents, candidate)),
        _section("Writing", writing_of(contents, candidate)),
        _section("Motivation", [one_line(candidate.motivation)] if candidate.motivation.strip() else []),
        f"Program (class {one_line(candidate.class_name)})\n\n{clean(candidate.program).rstrip()}\n",
    ]
    return "\n".join(section for section in sections if section)


def growth_text(growths: Sequence[Growth]) -> str:
    """What free code offered to the toolbox, generation by generation, and the source of what entered it."""
    lines: list[str] = []
    for generation, growth in enumerate(growths):
        for one in growth.offers:
            place = f" line {one.line}" if one.line else ""
            gain = f"{signed(one.gain, 4)} {interval(one.low, one.high, 4)}".rstrip()
            became = one_line(one.reason) or f"entered as {one.name}"
            lines.append(f"generation {generation}: {one.candidate_id}{place} ({gain}): {became}")
    sources = [one.source for growth in growths for one in growth.entered]
    return "\n\n".join(["\n".join(lines) or "Nothing was offered to the toolbox.", *sources])


def _head(candidate: Candidate, standing: Standing, metric: str) -> str:
    lines = [
        f"{short(candidate.name, 100)}  {candidate.id}",
        f"{candidate.arm}, {candidate.rung.replace('_', ' ')}, generation {candidate.generation}, "
        f"slot {candidate.slot}, {candidate.parameter_count:,} parameters",
        f"{metric}: {number(standing.mean, 4)} over {standing.n} seeds; improvement over the reference "
        f"{signed(standing.improvement, 4)} {interval(standing.low, standing.high, 4)}".rstrip(),
        f"verdict: {standing.verdict.replace('_', ' ')}" + (f" ({standing.note})" if standing.note else ""),
    ]
    return "\n".join(lines) + "\n"


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)]) + "\n" if lines else ""


def _lineage(contents: ArchiveContents, candidate: Candidate, rows: dict[str, Standing]) -> list[str]:
    """First parents up to the root, then the children."""
    by_id = {row.id: row for row in contents.candidates}
    lines, seen, parents = [], {candidate.id}, candidate.parents
    while parents and parents[0] in by_id and parents[0] not in seen and len(seen) < _LEVELS:
        parent = by_id[parents[0]]
        lines.append(f"parent {_relative(parent, rows[parent.id])}")
        seen.add(parent.id)
        parents = parent.parents
    children = [row for row in contents.candidates if candidate.id in row.parents]
    return lines + [f"child  {_relative(child, rows[child.id])}" for child in children]


def _relative(candidate: Candidate, standing: Standing) -> str:
    gain = signed(standing.improvement) if math.isfinite(standing.improvement) else "not measured"
    return f"{candidate.id}  generation {candidate.generation}  {gain}  {short(candidate.name, 60)}"


def _check(check: str, outcome: str, reason: str) -> str:
    return f"{outcome:8} {one_line(check):24} {short(reason, 120)}".rstrip()


def _run(run: Evaluation, metric: str) -> str:
    value = number(run.score(metric), 4)
    loss = number(run.curve_loss[-1]) if run.curve_loss else number(None)
    ended = run.ending.replace("_", " ") + (f" ({short(run.cause, 80)})" if run.cause else "")
    return (
        f"seed {run.task.seed}: {metric} {value}, training loss {sparkline(run.curve_loss)} {loss}, "
        f"{duration(run.cpu_s)} CPU, {ended}{_causal(run.certificate)}"
    )


def _causal(certificate: Certificate | None) -> str:
    """Of the trained weights; empty where there is no certificate."""
    if certificate is None:
        return ""
    if certificate.outcome == "passed":
        return f"; causality proved with trained weights at T = {certificate.length}"
    return f"; trained weights: {short(certificate.reason, 100)}"


def _lessons(contents: ArchiveContents, candidate: Candidate) -> list[str]:
    lines = []
    for lesson in contents.lessons:
        if lesson.candidate_id == candidate.id:
            lines.append(
                f"{lesson.outcome.replace('_', ' ')}, {signed(lesson.difference)}: {one_line(lesson.text)}".rstrip(": ")
            )
            lines += _opinions(lesson.analysis) if lesson.analysis else []
    return lines


def _opinions(said: Analysis) -> list[str]:
    """What the Analyst and the Judge said beside the lesson."""
    lines = []
    if said.component:
        lines.append(f"the Analyst blames {one_line(said.component)} (confidence {number(said.confidence, 2)})")
    if said.trigger:
        lines.append(f"symptom: {one_line(said.trigger)}")
    if said.effectiveness:
        marks = f"effectiveness {said.effectiveness}, novelty {said.novelty}, complexity {said.complexity}"
        lines.append(f"marks of the Judge: {marks}")
    return lines

"""The invariants of a campaign's records, checked on values; whoever knows the folders hands the values in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cognition_db.experience.archive import ArchiveContents
from cognition_db.experience.journal import Entry
from cognition_db.experience.shard import evaluation_digest
from cognition_db.records import Candidate, Evaluation, SlotTry, candidate_id, sha256_text

ACKNOWLEDGED = "evaluation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One broken invariant: the record it was found at, and what is wrong with it."""

    where: str
    what: str


def acknowledgement(evaluation: Evaluation, *, generation: int) -> dict[str, Any]:
    """What the journal says under the kind ACKNOWLEDGED once an evaluation is safe in a merged generation."""
    task = evaluation.task
    digest = evaluation_digest(evaluation)
    return {"key": task.key, "attempt": task.attempt, "generation": generation, "sha256": digest}


def check_records(
    contents: ArchiveContents, journal_entries: Iterable[Entry], *, closed_generation: int
) -> list[Problem]:
    """Every broken invariant of the archive, and every acknowledged evaluation it lacks or changed.

    Acknowledgements count up to `closed_generation`, the last one that is merged (0 is the first; -1: none).
    """
    candidates = {candidate.id: candidate for candidate in contents.candidates}
    acknowledged = {
        entry.data["key"]: entry.data["sha256"]
        for entry in journal_entries
        if entry.kind == ACKNOWLEDGED and entry.data["generation"] <= closed_generation
    }
    return [
        *_candidate_problems(contents.candidates, candidates),
        *_try_problems(contents.tries, candidates),
        *_evaluation_problems(contents.evaluations, candidates),
        *_lesson_problems(contents, candidates),
        *_differences(contents.evaluations, acknowledged, source="the journal"),
    ]


def check_against_merge(contents: ArchiveContents, merged: Sequence[Evaluation]) -> list[Problem]:
    """Where the archive's evaluations differ from those that merging all shards again gives."""
    expected = {evaluation.task.key: evaluation_digest(evaluation) for evaluation in merged}
    unknown = sorted({evaluation.task.key for evaluation in contents.evaluations} - set(expected))
    return [
        *_differences(contents.evaluations, expected, source="the shards"),
        *(Problem(where=f"evaluation {key}", what="is in the archive, but not in the shards") for key in unknown),
    ]


def _candidate_problems(candidates: Sequence[Candidate], known: Mapping[str, Candidate]) -> Iterator[Problem]:
    yield from _repeated("candidate", (candidate.id for candidate in candidates))
    for candidate in candidates:
        where = f"candidate {candidate.id}"
        if candidate.id != candidate_id(candidate.program):
            yield Problem(where=where, what=f"its program has id {candidate_id(candidate.program)}")
        for parent_id in candidate.parents:
            parent = known.get(parent_id)
            if parent is None:
                yield Problem(where=where, what=f"parent {parent_id} does not exist")
            elif parent.generation > candidate.generation:
                yield Problem(where=where, what=f"parent {parent_id} is of the later generation {parent.generation}")


def _try_problems(tries: Sequence[SlotTry], known: Mapping[str, Candidate]) -> Iterator[Problem]:
    yield from _repeated("try", (_place(item) for item in tries))
    for item in tries:
        where = f"try {_place(item)}"
        refused = any(verdict.refuses for verdict in item.verdicts)
        if item.candidate is None:
            if not refused:
                yield Problem(where=where, what="has no candidate and no verdict that refuses it")
            continue
        if refused:
            yield Problem(where=where, what=f"became candidate {item.candidate.id} although a verdict refuses it")
        if known.get(item.candidate.id) != item.candidate:
            yield Problem(where=where, what=f"candidate {item.candidate.id} is missing or differs in the archive")
        if item.candidate.program != item.proposal.program:
            yield Problem(where=where, what=f"candidate {item.candidate.id} has another program than the proposal")
    admitted = {item.candidate.id for item in tries if item.candidate is not None}
    for candidate in known.values():
        if candidate.arm != "baseline" and candidate.id not in admitted:
            yield Problem(where=f"candidate {candidate.id}", what="no try was admitted as this candidate")


def _evaluation_problems(evaluations: Sequence[Evaluation], known: Mapping[str, Candidate]) -> Iterator[Problem]:
    yield from _repeated("evaluation", (evaluation.task.key for evaluation in evaluations))
    for evaluation in evaluations:
        where = f"evaluation {evaluation.task.key}"
        candidate = known.get(evaluation.task.candidate_id)
        if candidate is None:
            yield Problem(where=where, what="its candidate does not exist")
        elif evaluation.program_sha256 != sha256_text(candidate.program):
            yield Problem(where=where, what=f"ran program {evaluation.program_sha256[:16]}, not its candidate's")
        if len(evaluation.curve_steps) != len(evaluation.curve_loss):
            counts = f"{len(evaluation.curve_steps)} steps and {len(evaluation.curve_loss)} losses"
            yield Problem(where=where, what=f"curve has {counts}")
        if evaluation.ending != "finished":
            if not evaluation.cause:
                yield Problem(where=where, what=f"ended as {evaluation.ending} without a cause")
            continue
        if evaluation.cause:
            yield Problem(where=where, what=f"finished, but has the cause {evaluation.cause!r}")
        for score in evaluation.scores:
            if not math.isfinite(score.value):
                yield Problem(where=where, what=f"finished with {score.name}={score.value}")


def _lesson_problems(contents: ArchiveContents, known: Mapping[str, Candidate]) -> Iterator[Problem]:
    names = (f"{lesson.candidate_id} of generation {lesson.generation}" for lesson in contents.lessons)
    yield from _repeated("lesson", names)
    for lesson in contents.lessons:
        if lesson.candidate_id not in known:
            yield Problem(where=f"lesson {lesson.candidate_id}", what="its candidate does not exist")


def _differences(evaluations: Sequence[Evaluation], expected: Mapping[str, str], *, source: str) -> Iterator[Problem]:
    found = {evaluation.task.key: evaluation_digest(evaluation) for evaluation in evaluations}
    for key in sorted(set(expected) - set(found)):
        yield Problem(where=f"evaluation {key}", what=f"is in {source}, but not in the archive")
    for key in sorted(set(expected) & set(found)):
        if expected[key] != found[key]:
            what = f"differs from {source}: sha256 {found[key][:16]} here, {expected[key][:16]} there"
            yield Problem(where=f"evaluation {key}", what=what)


def _repeated(noun: str, names: Iterable[str]) -> Iterator[Problem]:
    for name, count in sorted(Counter(names).items()):
        if count > 1:
            yield Problem(where=f"{noun} {name}", what=f"exists {count} times")


def _place(item: SlotTry) -> str:
    proposal = item.proposal
    return f"{proposal.attempt} of slot {proposal.slot} of generation {proposal.generation}"

"""The archive: everything all closed generations left, in one HDF5 file whose bytes depend on its content alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from cognition_db.experience.columns import Column, Row, Table, build, parse, record_digest
from cognition_db.experience.errors import ArchiveError, StoreError
from cognition_db.experience.files import write_atomic
from cognition_db.experience.shard import EVALUATIONS, evaluation_digest, evaluation_from_row, evaluation_row
from cognition_db.records import (
    Candidate,
    Evaluation,
    Lesson,
    Proposal,
    SlotTry,
    Verdict,
    canonical_json,
    from_json,
    to_json,
)

KIND = "archive"

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveContents:
    """The record of a campaign. `candidates` holds every admitted program once, those of the tries among them."""

    tries: tuple[SlotTry, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    lessons: tuple[Lesson, ...] = ()
    candidates: tuple[Candidate, ...] = ()

    def candidate(self, candidate_id: str) -> Candidate | None:
        return next((candidate for candidate in self.candidates if candidate.id == candidate_id), None)


def _text(name: str, description: str, unit: str = "text") -> Column:
    return Column(name=name, kind="text", unit=unit, description=description)


def _int(name: str, description: str, unit: str = "1") -> Column:
    return Column(name=name, kind="int", unit=unit, description=description)


def _float(name: str, description: str, unit: str) -> Column:
    return Column(name=name, kind="float", unit=unit, description=description)


def _json(name: str, description: str) -> Column:
    """A record within the record; schema 3 brought these."""
    return Column(name=name, kind="text", unit="JSON", description=description, since=3)


_ORIGIN = (
    _int("generation", "round of the search, from 0"),
    _int("slot", "place in the generation"),
    _text("arm", "where the program comes from"),
    _text("rung", "the form in which it was proposed"),
    _text("class_name", "the module of the program"),
    _text("program", "Python source; empty when the reply made no program"),
    _text("parents", "ids of the candidates it came from", "JSON"),
    _text("insights", "ids of the insights of the literature that were shown", "JSON"),
    _text("motivation", "why it should help"),
)
CANDIDATES = Table(
    name="candidates",
    description="admitted programs, one row each",
    columns=(
        _text("id", "first 16 digits of the sha256 of the program text", "hex"),
        _text("name", "name to read"),
        *_ORIGIN,
        _int("parameter_count", "trained parameters", "parameters"),
        _text("verdicts", "list of checks with outcome, reason and evidence", "JSON"),
        Column(name="fingerprint", kind="floats", unit="1", description="outputs of the fresh module on fixed inputs"),
    ),
)
TRIES = Table(
    name="tries",
    description="every try at a slot, one row each, also the refused ones",
    columns=(
        *_ORIGIN,
        _int("attempt", "number of the try at this slot"),
        Column(name="seed", kind="uint", unit="1", description="seed of every choice made for this try"),
        _text("method", "the method that was changed; empty for whole programs"),
        _text("model", "language model; empty when none was asked"),
        _text("prompt_sha256", "sha256 of the prompt", "hex"),
        _text("reply_sha256", "sha256 of the reply", "hex"),
        _int("repairs", "repair rounds before this text"),
        _text("verdicts", "list of checks with outcome, reason and evidence", "JSON"),
        _int("admitted", "1 if it became a candidate, else 0"),
        _text("candidate_id", "the candidate it became; empty when refused", "hex"),
        _json("writing", "the idea, its origin and what the calls cost; empty where no model was asked"),
    ),
)
LESSONS = Table(
    name="lessons",
    description="what the analysis of one candidate said",
    columns=(
        _text("candidate_id", "the candidate", "hex"),
        _int("generation", "round in which the lesson was drawn"),
        _text("outcome", "computed verdict against the reference"),
        _float("difference", "mean paired improvement over the reference; NaN if not measured", "selection metric"),
        _text("text", "words of the language model"),
        _int("is_judged", "1 if judge_score is an opinion, 0 if there is none"),
        _float("judge_score", "recorded opinion; NaN if there is none", "1 to 10"),
        _text("reply_sha256", "sha256 of the reply", "hex"),
        _json("analysis", "component, confidence, trigger and marks; empty where no model was asked"),
    ),
)
_TABLES = (CANDIDATES, TRIES, EVALUATIONS, LESSONS)
_JSON_FIELDS = ("parents", "insights", "verdicts")
_JSON_RECORDS = ("writing", "analysis")
_TRY_ONLY = ("verdicts", "admitted", "candidate_id")


def ordered(contents: ArchiveContents) -> ArchiveContents:
    """The same records in the one order in which an archive holds them."""
    return ArchiveContents(
        tries=_sorted(contents.tries, _try_place, lambda item: record_digest(TRIES, _try_row(item))),
        evaluations=_sorted(contents.evaluations, _evaluation_place, evaluation_digest),
        lessons=_sorted(contents.lessons, _lesson_place, lambda item: record_digest(LESSONS, _lesson_row(item))),
        candidates=_sorted(contents.candidates, _candidate_place, _digest),
    )


def write_archive(path: Path, contents: ArchiveContents) -> None:
    """Replace the archive in one durable step; equal contents in any order give equal bytes.

    Raises:
        ArchiveError: two candidates share an id, or a try holds a candidate that `contents.candidates` does not.
        NoSpaceError: the disk is full; the old archive stays.
    """
    _check_candidates(path, contents)
    try:
        contents = ordered(contents)
        tables: list[tuple[Table, Sequence[Row]]] = [
            (CANDIDATES, [_candidate_row(candidate) for candidate in contents.candidates]),
            (TRIES, [_try_row(slot_try) for slot_try in contents.tries]),
            (EVALUATIONS, [evaluation_row(evaluation) for evaluation in contents.evaluations]),
            (LESSONS, [_lesson_row(lesson) for lesson in contents.lessons]),
        ]
        data = build(KIND, tables, facts={})
    except StoreError as error:
        raise ArchiveError(f"{path}: {error}") from error
    write_atomic(path, data)


def read_archive(path: Path) -> ArchiveContents:
    """The whole record, in its order, every digest checked; an archive that does not exist yet is empty.

    Raises:
        ArchiveError: unreadable, damaged, not an archive or of another schema.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return ArchiveContents()
    except OSError as error:
        raise ArchiveError(f"{path}: can't be read: {error.strerror}") from error
    try:
        return parse_archive(data)
    except StoreError as error:
        raise ArchiveError(f"{path}: {error}") from error


def parse_archive(data: bytes) -> ArchiveContents:
    rows = parse(data, KIND, _TABLES)
    candidates = tuple(_record(Candidate, row) for row in rows[CANDIDATES.name])
    known = {candidate.id: candidate for candidate in candidates}
    return ArchiveContents(
        candidates=candidates,
        tries=tuple(_try_from_row(row, known) for row in rows[TRIES.name]),
        evaluations=tuple(evaluation_from_row(row) for row in rows[EVALUATIONS.name]),
        lessons=tuple(_lesson_from_row(row) for row in rows[LESSONS.name]),
    )


def _check_candidates(path: Path, contents: ArchiveContents) -> None:
    known = {candidate.id: candidate for candidate in contents.candidates}
    if len(known) != len(contents.candidates):
        count = len(contents.candidates)
        raise ArchiveError(f"{path}: {count} candidates have only {len(known)} ids; keep one of each")
    for slot_try in contents.tries:
        candidate = slot_try.candidate
        if candidate is not None and candidate.id not in known:
            raise ArchiveError(f"{path}: candidate {candidate.id} of a try is not among the candidates; add it")
        if candidate is not None and _digest(known[candidate.id]) != _digest(candidate):
            raise ArchiveError(f"{path}: candidate {candidate.id} differs between its try and the candidates")


def _digest(candidate: Candidate) -> str:
    return record_digest(CANDIDATES, _candidate_row(candidate))


def _sorted(
    records: Iterable[Record], place: Callable[[Record], tuple[Any, ...]], digest: Callable[[Record], str]
) -> tuple[Record, ...]:
    # records of one place stand in the order of their digests, so that one result comes of every order given
    groups = [list(group) for _, group in groupby(sorted(records, key=place), key=place)]
    return tuple(record for group in groups for record in (sorted(group, key=digest) if len(group) > 1 else group))


def _try_place(item: SlotTry) -> tuple[Any, ...]:
    return item.proposal.generation, item.proposal.slot, item.proposal.attempt


def _evaluation_place(item: Evaluation) -> tuple[Any, ...]:
    return item.task.candidate_id, item.task.stage, item.task.seed, item.task.attempt


def _lesson_place(item: Lesson) -> tuple[Any, ...]:
    return item.generation, item.candidate_id


def _candidate_place(item: Candidate) -> tuple[Any, ...]:
    return item.generation, item.slot, item.id


def _candidate_row(candidate: Candidate) -> Row:
    row: Row = {column.name: getattr(candidate, column.name) for column in CANDIDATES.columns}
    row |= {"parents": canonical_json(row["parents"]), "insights": canonical_json(row["insights"])}
    row["verdicts"] = _verdicts_text(candidate.verdicts)
    return row


def _try_row(slot_try: SlotTry) -> Row:
    names = [column.name for column in TRIES.columns if column.name not in _TRY_ONLY]
    row: Row = {name: getattr(slot_try.proposal, name) for name in names}
    candidate = slot_try.candidate
    row |= {"admitted": int(candidate is not None), "candidate_id": candidate.id if candidate else ""}
    row |= {"parents": canonical_json(row["parents"]), "insights": canonical_json(row["insights"])}
    row["verdicts"] = _verdicts_text(slot_try.verdicts)
    row["writing"] = _json_text(slot_try.proposal.writing)
    return row


def _try_from_row(row: Row, known: dict[str, Candidate]) -> SlotTry:
    proposal = _record(Proposal, {name: value for name, value in row.items() if name not in _TRY_ONLY})
    if row["admitted"] and row["candidate_id"] not in known:
        raise StoreError(f"try names candidate {row['candidate_id']!r}, which is not in the archive")
    return SlotTry(
        proposal=proposal,
        verdicts=tuple(from_json(Verdict, verdict) for verdict in json.loads(row["verdicts"])),
        candidate=known[row["candidate_id"]] if row["admitted"] else None,
    )


def _lesson_row(lesson: Lesson) -> Row:
    row: Row = {column.name: getattr(lesson, column.name) for column in LESSONS.columns if column.name != "is_judged"}
    row["is_judged"] = int(lesson.judge_score is not None)
    row["judge_score"] = float("nan") if lesson.judge_score is None else lesson.judge_score
    row["analysis"] = _json_text(lesson.analysis)
    return row


def _lesson_from_row(row: Row) -> Lesson:
    fields = {name: value for name, value in row.items() if name != "is_judged"}
    if not row["is_judged"]:
        fields["judge_score"] = None
    return _record(Lesson, fields)


def _verdicts_text(verdicts: Iterable[Verdict]) -> str:
    try:
        return canonical_json([to_json(verdict) for verdict in verdicts])
    except (TypeError, ValueError) as error:
        raise StoreError(f"a verdict holds evidence that is not JSON ({error})") from error


def _json_text(record: object | None) -> str:
    return "" if record is None else canonical_json(to_json(record))


def _record(kind: type[Record], row: Row) -> Record:
    try:
        fields = {name: json.loads(value) if name in _JSON_FIELDS else value for name, value in row.items()}
        fields |= {name: json.loads(row[name] or "null") for name in _JSON_RECORDS if name in row}
        return from_json(kind, fields)
    except (ValueError, ValidationError) as error:
        raise StoreError(f"a row is not a {kind.__name__} ({' '.join(str(error).split())[:200]})") from error

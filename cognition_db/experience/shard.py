"""Shards: the evaluations of one attempt of an array element in one HDF5 file, written once, read many times."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from cognition_db.experience.columns import Column, Row, Table, build, fact, parse, record_digest
from cognition_db.experience.errors import ShardError, StoreError
from cognition_db.experience.files import write_atomic
from cognition_db.experience.guard import check_files
from cognition_db.experience.seal import is_seal, seal
from cognition_db.records import Evaluation, Score, Task, canonical_json, from_json, to_json

KIND = "shard"
_SEAL = "seal"

SCORES = Table(
    name="scores",
    description="measured numbers, one row each",
    columns=(
        Column(name="name", kind="text", unit="text", description="name of the score"),
        Column(name="value", kind="float", unit="see column unit", description="mean over count items"),
        Column(name="count", kind="int", unit="items", description="number of items behind the mean"),
        Column(name="unit", kind="text", unit="text", description="unit of value"),
    ),
)
EVALUATIONS = Table(
    name="evaluations",
    description="one row per training run",
    columns=(
        Column(name="candidate_id", kind="text", unit="hex", description="first 16 digits of the program's sha256"),
        Column(name="stage", kind="text", unit="text", description="scale of the training run"),
        Column(name="seed", kind="uint", unit="1", description="seed of data order and initial weights"),
        Column(name="attempt", kind="int", unit="1", description="number of the attempt at this run"),
        Column(name="unit", kind="text", unit="text", description="name of the work unit that ran it"),
        Column(
            name="fencing_token",
            kind="text",
            unit="text",
            description="campaign uuid / unit / attempt / job id / restart count",
        ),
        Column(name="ending", kind="text", unit="text", description="how the run ended; only finished runs are ranked"),
        Column(name="cause", kind="text", unit="text", description="one line; empty when finished"),
        Column(name="curve_steps", kind="ints", unit="optimiser steps", description="steps of curve_loss"),
        Column(name="curve_loss", kind="floats", unit="nats per token", description="training loss"),
        Column(name="tokens_seen", kind="int", unit="tokens", description="tokens trained on, repeats included"),
        Column(name="parameter_count", kind="int", unit="parameters", description="trained parameters"),
        Column(name="wall_s", kind="float", unit="s", description="wall-clock time"),
        Column(name="cpu_s", kind="float", unit="s", description="processor time"),
        Column(name="peak_memory_mb", kind="float", unit="MB", description="largest memory use"),
        Column(name="resumed_from_step", kind="int", unit="optimiser steps", description="checkpoint resumed from"),
        Column(name="started_unix", kind="float", unit="s since 1970-01-01 UTC", description="start of the attempt"),
        Column(name="host", kind="text", unit="text", description="machine it ran on"),
        Column(name="versions", kind="text", unit="JSON", description="versions of the software"),
        Column(name="config_sha256", kind="text", unit="hex", description="sha256 of the resolved configuration"),
        Column(name="program_sha256", kind="text", unit="hex", description="sha256 of the program text"),
        Column(name="jail", kind="text", unit="text", description="rung of the jail that it ran in", since=2),
        Column(name="certificate", kind="text", unit="JSON", description="causality of the trained mixers", since=2),
    ),
    children=(SCORES,),
)
_TASK_COLUMNS = ("candidate_id", "stage", "seed", "attempt")


def write_shard(path: Path, evaluations: Sequence[Evaluation], *, generation: int, secret: str = "") -> None:
    """Write all evaluations of one attempt as one durable file; equal evaluations give equal bytes.

    secret: of the campaign, for the seal; empty in a campaign that has none.

    Raises:
        ShardError: a value can't be stored (text that is not Unicode, a number beyond 64 bits).
        NoSpaceError: the disk is full; nothing is left behind.
    """
    try:
        rows = [evaluation_row(evaluation) for evaluation in evaluations]
        facts = {"generation": str(generation)}
        data = build(KIND, [(EVALUATIONS, rows)], facts=facts | ({_SEAL: _sealed(secret, rows)} if secret else {}))
    except StoreError as error:
        raise ShardError(f"{path}: {error}") from error
    write_atomic(path, data)


def read_shard(path: Path) -> tuple[Evaluation, ...]:
    """All evaluations, every digest checked; for a file of unknown health use read_shard_guarded.

    Raises:
        ShardError: unreadable, damaged, not a shard or of another schema.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ShardError(f"{path}: can't be read: {error.strerror}") from error
    try:
        return parse_shard(data)
    except StoreError as error:
        raise ShardError(f"{path}: {error}") from error


def read_shard_guarded(path: Path, limit_s: float) -> tuple[Evaluation, ...]:
    """As read_shard, but another process goes through the file first: a damaged file can make HDF5 hang or crash.

    Raises:
        ShardError: as read_shard, and when reading takes longer than `limit_s` seconds or kills the reader.
    """
    (report,) = check_files([Path(path)], limit_s=limit_s)
    return read_checked(Path(path), sha256=report.sha256, problem=report.problem)


def read_checked(path: Path, *, sha256: str, problem: str, secret: str = "") -> tuple[Evaluation, ...]:
    """The evaluations of a file that a guarded reader has judged; only the very bytes it found good are parsed here.

    secret: of the campaign; a shard without its seal is refused. Empty: no shard of the campaign is sealed.
    """
    if problem:
        raise ShardError(f"{path}: {problem}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path}: can't be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ShardError(f"{path}: changed while it was read; a shard is written once, so another program wrote here")
    evaluations = parse_shard(data)
    if secret and not is_seal(fact(data, _SEAL), _sealed(secret, map(evaluation_row, evaluations))):
        raise ShardError(f"{path}: without the seal of this campaign: forged, or copied from another campaign")
    return evaluations


def parse_shard(data: bytes) -> tuple[Evaluation, ...]:
    rows = parse(data, KIND, [EVALUATIONS])[EVALUATIONS.name]
    return tuple(evaluation_from_row(row) for row in rows)


def _sealed(secret: str, rows: Iterable[Row]) -> str:
    return seal(secret, KIND, *(record_digest(EVALUATIONS, row) for row in rows))


def evaluation_digest(evaluation: Evaluation) -> str:
    """The sha256 that stands beside this evaluation in shard and archive."""
    return record_digest(EVALUATIONS, evaluation_row(evaluation))


def evaluation_row(evaluation: Evaluation) -> Row:
    """The evaluation as one row of EVALUATIONS."""
    names = [column.name for column in EVALUATIONS.columns if column.name not in _TASK_COLUMNS]
    row: Row = {name: getattr(evaluation, name) for name in names}
    row |= {name: getattr(evaluation.task, name) for name in _TASK_COLUMNS}
    row["versions"] = canonical_json(evaluation.versions)
    row["certificate"] = canonical_json(to_json(evaluation.certificate)) if evaluation.certificate else ""
    row["scores"] = [
        {"name": score.name, "value": score.value, "count": score.count, "unit": score.unit}
        for score in evaluation.scores
    ]
    return row


def evaluation_from_row(row: Row) -> Evaluation:
    """The evaluation that a row of EVALUATIONS describes; raises StoreError when it is none."""
    fields = {name: value for name, value in row.items() if name not in _TASK_COLUMNS}
    fields["task"] = Task(**{name: row[name] for name in _TASK_COLUMNS})
    fields["scores"] = tuple(Score(**score) for score in row["scores"])
    try:
        fields["versions"] = json.loads(row["versions"])
        fields["certificate"] = json.loads(row["certificate"] or "null")
        return from_json(Evaluation, fields)
    except (ValueError, ValidationError) as error:
        detail = " ".join(str(error).split())[:200]
        raise StoreError(f"run {fields['task'].key}: not an evaluation ({detail})") from error

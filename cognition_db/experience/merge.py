"""Merging shards: the same shards give the same result in any order; late writers of old attempts lose by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cognition_db.experience.errors import ShardError
from cognition_db.experience.guard import check_files
from cognition_db.experience.shard import evaluation_digest, read_checked
from cognition_db.records import Evaluation, Task

_READ_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What a set of shards says about the expected tasks. All tuples are sorted."""

    evaluations: tuple[Evaluation, ...]  # at most one per expected task
    missing: tuple[str, ...]  # keys of expected tasks without an evaluation of the expected attempt
    quarantined: tuple[tuple[Path, str], ...]  # shards that can't be trusted, with the reason; the caller moves them
    superseded: tuple[str, ...]  # evaluations left out: another attempt, a second writer, or a task nobody expects


def merge(
    shard_paths: Sequence[Path], expected: Sequence[Task], *, secret: str = "", limit_s: float = _READ_LIMIT_S
) -> MergeReport:
    """Pick the evaluation of every expected task at exactly its expected attempt.

    When two shards hold the same attempt (a job that ran twice), the one that started first counts. Every shard is
    first read by another process with `limit_s` seconds for each; one that hangs, crashes, is damaged or lacks the seal
    of the campaign's secret is quarantined.
    """
    attempts = {task.key: task.attempt for task in expected}
    found: dict[str, list[_Found]] = {}
    quarantined: list[tuple[Path, str]] = []
    superseded: list[str] = []
    for report in check_files(sorted({Path(path) for path in shard_paths}), limit_s=limit_s):
        try:
            evaluations = read_checked(report.path, sha256=report.sha256, problem=report.problem, secret=secret)
        except ShardError as error:
            quarantined.append((report.path, str(error)))
            continue
        for evaluation in evaluations:
            item = _Found(evaluation=evaluation, shard=report.path.name, digest=evaluation_digest(evaluation))
            if attempts.get(evaluation.task.key) == evaluation.task.attempt:
                found.setdefault(evaluation.task.key, []).append(item)
            else:
                superseded.append(item.name)
    chosen = []
    for items in found.values():
        items.sort(key=lambda item: (item.evaluation.started_unix, item.digest, item.shard))
        chosen.append(items[0].evaluation)
        superseded += [item.name for item in items[1:] if item.digest != items[0].digest]
    return MergeReport(
        evaluations=tuple(sorted(chosen, key=lambda e: (e.task.candidate_id, e.task.stage, e.task.seed))),
        missing=tuple(sorted(set(attempts) - set(found))),
        quarantined=tuple(quarantined),
        superseded=tuple(sorted(superseded)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    evaluation: Evaluation
    shard: str
    digest: str

    @property
    def name(self) -> str:
        task = self.evaluation.task
        return f"{task.key} attempt {task.attempt} in {self.shard}"

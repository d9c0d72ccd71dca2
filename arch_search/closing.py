"""Closing a generation: merge its shards, draw the lessons, rewrite the archive, acknowledge."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from arch_search.analysing import analyse
from arch_search.budget import Expenses
from arch_search.campaign import Campaign
from arch_search.generation import admitted, read_tries, recorded_packs, rounds_of, shards_of
from arch_search.protocols import ModelClient
from cognition_db.experience import archive, fsck
from cognition_db.experience.archive import ArchiveContents
from cognition_db.experience.files import read_json
from cognition_db.experience.merge import MergeReport, merge
from cognition_db.records import Evaluation, Task
from slurm.files import tidy
from slurm.units import Submission


def merge_generation(campaign: Campaign, number: int, say: Callable[[str], None]) -> MergeReport:
    """Evaluations of all shards of a generation; damaged shards are moved aside and their units train again."""
    paths = campaign.generation(number)
    report = merge(*merge_plan(campaign, number, paths.shards), secret=campaign.secret)
    for bad, reason in report.quarantined:
        paths.quarantine.mkdir(exist_ok=True)
        shutil.move(bad, paths.quarantine / bad.name)
        say(f"gen {number}: {bad.name} is refused ({reason}); moved to {paths.quarantine.name}/, its unit trains again")
    return report


def merge_plan(campaign: Campaign, number: int, folder: Path) -> tuple[list[Path], list[Task]]:
    """The shards of a generation in `folder`, the newest of each unit, and the trainings they must hold."""
    paths = campaign.generation(number)
    shards: list[Path] = []
    expected: list[Task] = []
    newest = shards_of(folder)
    for pack in recorded_packs(number, paths, campaign.config):
        shard = newest.get(pack.unit)
        if shard is not None:
            shards.append(shard)
            attempt = int(shard.stem.rpartition("-a")[2])
            expected += [replace(task, attempt=attempt) for task in pack.tasks]
    return shards, expected


def close_generation(
    campaign: Campaign,
    number: int,
    evaluations: Sequence[Evaluation],
    *,
    client: Callable[[], ModelClient] | None,
    reference_id: str,
    say: Callable[[str], None],
) -> ArchiveContents:
    """Draw the lessons and make the generation part of the archive; a second call changes nothing."""
    contents = contents_with(campaign, number, evaluations)
    model = client() if client and number else None
    drawn = analyse(campaign, number, contents, client=model, reference_id=reference_id) if number else ()
    contents = replace(contents, lessons=(*contents.lessons, *drawn))
    campaign.journal.require_writer()
    archive.write_archive(campaign.paths.archive, contents)
    for one in evaluations:
        campaign.journal.append(fsck.ACKNOWLEDGED, fsck.acknowledgement(one, generation=number))
    Expenses(campaign).settle(number)
    digest = archive_sha256(campaign)
    campaign.journal.append("generation-closed", {"generation": number, "archive_sha256": digest})
    _tidy(campaign, number)
    trained = sum(one.ending == "finished" for one in evaluations)
    count = sum(one.generation == number for one in contents.candidates)
    say(f"gen {number}: closed: {count} candidates, {trained} of {len(evaluations)} trainings finished")
    return contents


def contents_with(campaign: Campaign, number: int, evaluations: Sequence[Evaluation]) -> ArchiveContents:
    """The archive up to this generation, with what it has measured by now; its lessons are not drawn yet."""
    earlier = archive_without(campaign.contents(), number)
    tries = read_tries(campaign.generation(number))
    return replace(
        earlier,
        tries=(*earlier.tries, *tries),
        candidates=(*earlier.candidates, *admitted(tries)),
        evaluations=(*earlier.evaluations, *evaluations),
    )


def _tidy(campaign: Campaign, number: int) -> None:
    """Remove the batch scripts, command lists and locks of the generation's submissions: network disks count files."""
    paths = campaign.generation(number)
    for round_number in rounds_of(paths):
        file = paths.submission(round_number)
        record = read_json(file) if file.exists() else None
        if record and record["state"] == "submitted":
            tidy(Submission.from_json(record["submission"]))


def archive_sha256(campaign: Campaign) -> str:
    """Hash of the archive file; equal contents give equal bytes."""
    return hashlib.sha256(campaign.paths.archive.read_bytes()).hexdigest()


def archive_without(contents: ArchiveContents, number: int) -> ArchiveContents:
    """The contents of the generations before `number`: closing is repeated whole after a kill in its middle."""
    return ArchiveContents(
        tries=tuple(one for one in contents.tries if one.proposal.generation < number),
        candidates=tuple(one for one in contents.candidates if one.generation < number),
        evaluations=tuple(
            one
            for one in contents.evaluations
            if any(c.id == one.task.candidate_id and c.generation < number for c in contents.candidates)
        ),
        lessons=tuple(one for one in contents.lessons if one.generation < number),
    )

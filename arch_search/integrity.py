"""fsck: every invariant of a campaign folder, checked from its files alone."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence

from arch_search.agents.call_log import Call, read_calls, read_text
from arch_search.campaign import Campaign
from arch_search.closing import archive_sha256, merge_plan
from arch_search.compacting import shards_folder
from arch_search.generation import (
    admitted,
    open_slots,
    read_repeats,
    read_steering,
    read_tries,
    recorded_packs,
    rounds_of,
    shards_of,
)
from arch_search.growing import GROWN, read_growth
from arch_search.opening import FIXED
from arch_search.paths import GenerationPaths
from arch_search.proposals.fingerprint import grown_name
from arch_search.repeating import hidden_seeds
from arch_search.steering_files import read_requests
from cognition_db.experience import archive, fsck
from cognition_db.experience.errors import StoreError
from cognition_db.experience.fsck import Problem
from cognition_db.experience.journal import Entry, read
from cognition_db.experience.merge import merge
from cognition_db.records import SlotTry, sha256_text


def check_campaign(campaign: Campaign) -> list[Problem]:
    """All problems found; an empty list is a clean campaign."""
    try:
        journal = read(campaign.paths.journal)
        contents = campaign.contents()
    except StoreError as error:
        return [Problem(where=str(campaign.paths.root), what=str(error))]
    closed = campaign.generations_closed()
    secret, problems = "", list[Problem]()
    try:
        secret = campaign.secret
    except StoreError as error:
        problems.append(Problem(where="seals of the shards", what=f"not checked: {error}"))
    problems += fsck.check_records(contents, journal.entries, closed_generation=closed - 1)
    problems += _acknowledged(campaign, journal.entries)
    for number in range(closed):
        problems += _closed_generation(campaign, number, contents, secret)
    tries = contents.tries
    if closed <= campaign.config.campaign.generations:
        problems += _open_generation(campaign, campaign.generation(closed))
        tries += read_tries(campaign.generation(closed))
    problems += _calls(campaign, tries)
    problems += _requests(campaign)
    return problems


def _acknowledged(campaign: Campaign, entries: tuple[Entry, ...]) -> Iterator[Problem]:
    """Whatever the journal acknowledges must be there, byte for byte."""
    for entry in entries:
        paths = campaign.generation(entry.data.get("generation", 0))
        if entry.kind == "try":
            path = paths.slot_try(entry.data["slot"], entry.data["attempt"])
        elif entry.kind == "repeats":
            path = paths.repeats
        elif entry.kind == FIXED:
            path = paths.steering
        elif entry.kind == GROWN:
            path = paths.toolbox
        else:
            continue
        if not path.exists():
            yield Problem(where=str(path), what="acknowledged in the journal but not there")
        elif sha256_text(path.read_text()) != entry.data["sha256"]:
            yield Problem(where=str(path), what="its content is not the one the journal acknowledged")
    closings = [entry for entry in entries if entry.kind == "generation-closed"]
    numbers = [entry.data["generation"] for entry in closings]
    if numbers != list(range(len(numbers))):
        yield Problem(where=str(campaign.paths.journal), what=f"generations were closed in the order {numbers}")
    if closings and archive_sha256(campaign) != closings[-1].data["archive_sha256"]:
        yield Problem(where=str(campaign.paths.archive), what="is not the archive the journal acknowledged")


def _closed_generation(
    campaign: Campaign, number: int, contents: archive.ArchiveContents, secret: str
) -> Iterator[Problem]:
    """A closed generation has every slot decided, every unit recorded, and its shards give the archive's rows."""
    paths = campaign.generation(number)
    tries = read_tries(paths)
    if open_slots(number, tries, campaign.config, read_steering(paths)):
        yield Problem(where=str(paths.slots), what="the generation is closed but a slot is not decided")
    ids = {candidate.id for candidate in admitted(tries)}
    yield from _repeats(campaign, paths, ids, secret)
    yield from _growth(campaign, paths, number, ids)
    kept = {one.task.key: one for one in contents.evaluations if one.task.candidate_id in ids and _of(one.unit, number)}
    try:
        with shards_folder(paths) as folder:
            report = merge(*merge_plan(campaign, number, folder), secret=secret)
    except zipfile.BadZipFile as error:
        yield Problem(where=str(paths.packed_shards), what=f"is no zip file that can be read ({error})")
        return
    place = paths.packed_shards if paths.packed_shards.exists() else paths.shards
    for bad, reason in report.quarantined:
        yield Problem(where=f"{place}/{bad.name}", what=reason)
    for key in report.missing:
        yield Problem(where=key, what="no shard holds this training")
    for evaluation in report.evaluations:
        if kept.get(evaluation.task.key) != evaluation:
            yield Problem(where=evaluation.task.key, what="the archive's row is not the one of the shard")


def _requests(campaign: Campaign) -> Iterator[Problem]:
    """Every request is one of this campaign, and those that were taken in are there as they were."""
    found = read_requests(campaign)
    for reason in found.refused:
        yield Problem(where="steering", what=reason)
    for number in range(campaign.config.campaign.generations + 1):
        paths = campaign.generation(number)
        for name, sha256 in read_steering(paths).files.items():
            if found.files.get(name) != sha256:
                yield Problem(where=str(campaign.paths.steering / name), what=f"is not what {paths.steering} took in")


def _calls(campaign: Campaign, tries: Sequence[SlotTry]) -> Iterator[Problem]:
    """Every call that a try names is in the call log, and its prompt and reply are there as they were."""
    try:
        known = {call.key: call for call in read_calls(campaign.paths.calls)}
    except StoreError as error:
        yield Problem(where=str(campaign.paths.calls), what=str(error))
        return
    for key in sorted({key for one in tries if one.proposal.writing for key in one.proposal.writing.calls}):
        if key not in known:
            yield Problem(where=f"call {key}", what=f"a try names it, but it is not in {campaign.paths.calls.name}")
    for call in known.values():
        yield from _texts(campaign, call)


def _texts(campaign: Campaign, call: Call) -> Iterator[Problem]:
    for what, sha256 in (("prompt", call.prompt_sha256), ("reply", call.reply_sha256)):
        file = campaign.paths.text(sha256)
        if read_text(file, sha256) is None:
            yield Problem(where=f"call {call.key}", what=f"its {what} ({file}.gz) is missing or damaged")


def _repeats(campaign: Campaign, paths: GenerationPaths, ids: set[str], secret: str) -> Iterator[Problem]:
    """A closed generation has its own programs repeated, with the hidden seeds of this campaign."""
    if not campaign.config.selection.repeat_seeds:
        return
    if not paths.repeats.exists():
        yield Problem(where=str(paths.repeats), what="is not there, and the generation is closed")
        return
    repeats = read_repeats(paths)
    if not ids.issuperset(repeats.candidates):
        yield Problem(where=str(paths.repeats), what="names a program that is none of this generation")
    if secret and repeats.seeds != hidden_seeds(campaign):
        yield Problem(where=str(paths.repeats), what="its seeds do not follow from the secret of the campaign")


def _growth(campaign: Campaign, paths: GenerationPaths, number: int, ids: set[str]) -> Iterator[Problem]:
    """What entered the toolbox came from this generation's own programs, under the name that follows from its text."""
    if not number or not campaign.config.campaign.toolbox_growth:
        return
    if not paths.toolbox.exists():
        yield Problem(where=str(paths.toolbox), what="is not there, and the generation is closed")
        return
    for offer in read_growth(paths).offers:
        if offer.candidate_id not in ids:
            yield Problem(where=str(paths.toolbox), what="names a program that is none of this generation")
        if offer.name and offer.name != grown_name(offer.source):
            yield Problem(where=str(paths.toolbox), what=f"{offer.name} is not the name of its source")


def _of(unit: str, number: int) -> bool:
    return unit.startswith(f"g{number:04d}-")


def _open_generation(campaign: Campaign, paths: GenerationPaths) -> Iterator[Problem]:
    """An open generation may be half done, but what is there must fit together."""
    if not rounds_of(paths):
        return
    number = int(paths.root.name.removeprefix("gen-"))
    known = {pack.unit for pack in recorded_packs(number, paths, campaign.config)}
    for shard in sorted(paths.shards.glob("*.h5")):
        unit = shard.stem.rpartition("-a")[0]
        if unit not in known:
            yield Problem(where=str(shard), what="belongs to no work unit of this generation")
    for unit, shard_file in sorted(shards_of(paths.shards).items()):
        if unit in known and not shard_file.stat().st_size:
            yield Problem(where=str(shard_file), what="is empty")

"""The opening of a generation: what of the requests on file holds for it is fixed.

It is written to `gen-N/steering.json` and acknowledged in the journal: choices stay a function of files, whenever a
request comes and whenever the driver is killed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from arch_search.campaign import Campaign
from arch_search.config import Config
from arch_search.errors import CampaignError
from arch_search.generation import read_steering, read_tries, searched_rungs, slot_plans
from arch_search.proposals.registry import BUILT_IN
from arch_search.steered import REWORKING, has_place
from arch_search.steering import Steering, given, standing
from arch_search.steering_files import read_requests, used_gifts
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import write_atomic
from cognition_db.experience.journal import read
from cognition_db.records import Candidate, canonical_json, sha256_text, to_json

FIXED = "steering"  # kind of the journal's line


def fixed_steering(campaign: Campaign, number: int, reference: Candidate) -> Steering:
    """What holds for a generation; decided and recorded at the first call, which opens it.

    Raises:
        CampaignError: the record is not the one that the journal acknowledges.
    """
    paths = campaign.generation(number)
    known = {
        entry.data["generation"]: entry.data["sha256"]
        for entry in read(campaign.paths.journal).entries
        if entry.kind == FIXED
    }
    if not paths.steering.exists() and number not in known:
        if read_tries(paths):
            return Steering()  # opened by a version that could not be steered
        campaign.journal.require_writer()
        write_atomic(paths.steering, canonical_json(to_json(_decided(campaign, number, reference))).encode())
    sha256 = sha256_text(_text(paths.steering))
    if number not in known:
        campaign.journal.append(FIXED, {"generation": number, "sha256": sha256})
    elif known[number] != sha256:
        raise CampaignError(
            f"{paths.steering}: its content is not the one the journal acknowledged; restore it from a copy"
        )
    return read_steering(paths)


def closed_rungs(config: Config, steering: Steering, reference: Candidate) -> tuple[str, ...]:
    """Rungs of this campaign that are banned, or on which nothing is left to change in the reference."""
    banned_rungs = {ban.subject for ban in steering.bans if ban.of == "rung"}
    banned = steering.banned_families
    rungs = searched_rungs(config)
    # the other two rungs start from programs of the search, which the reference says nothing about
    stuck = {rung for rung in rungs - REWORKING if not has_place(rung, reference, reference, banned, BUILT_IN)}
    return tuple(sorted(rungs & (banned_rungs | stuck)))


def _decided(campaign: Campaign, number: int, reference: Candidate) -> Steering:
    found = read_requests(campaign)
    steering = standing(found.valid)
    closed = closed_rungs(campaign.config, steering, reference)
    steering = replace(steering, files=found.files, refused=found.refused, closed_rungs=closed)
    plans = slot_plans(campaign.config)
    written = [plan for plan in plans if plan.arm == "evolve" and plan.asks_model]
    takes_ideas = [plan.slot for plan in written if plan.is_open(campaign.config, closed)]
    used = used_gifts(campaign, number)
    return given(steering, found.valid, used=used, idea_slots=takes_ideas, first_free=len(plans))


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise StoreError(f"{file}: can't be read: {error.strerror}; restore it from a copy") from error

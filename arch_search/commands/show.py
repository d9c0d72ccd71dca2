"""`arch-search show`: one candidate, the tries at one slot, the calls behind them, or what the toolbox was offered."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from arch_search.agents.call_log import CallLog
from arch_search.analysis.calls import calls_text, keys_of, slot_text
from arch_search.analysis.show import find_candidate, growth_text, show_text
from arch_search.campaign import Campaign, open_campaign
from arch_search.errors import CampaignError
from arch_search.growing import growths_before
from arch_search.reporting import everything_so_far, reference_id
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import SlotTry

_SLOT = re.compile(r"g(\d+)/s(\d+)")


def run(options: argparse.Namespace) -> int:
    campaign = open_campaign(Path(options.dir))
    contents = everything_so_far(campaign)
    if options.id == "toolbox":
        print(growth_text(growths_before(campaign, campaign.generations_closed())))
        return 0
    slot = _SLOT.fullmatch(options.id)
    if slot:
        tries = _tries_at(contents, int(slot[1]), int(slot[2]))
        text = slot_text(tries)
    else:
        candidate = find_candidate(contents, options.id)
        tries = [one for one in contents.tries if one.candidate and one.candidate.id == candidate.id]
        selection = campaign.config.selection
        text = show_text(
            contents,
            candidate,
            reference_id=reference_id(contents),
            metric=selection.metric,
            confidence=selection.confidence,
        )
    print(_calls(campaign, tries) if options.calls else text)
    return 0


def _tries_at(contents: ArchiveContents, generation: int, slot: int) -> list[SlotTry]:
    found = [one for one in contents.tries if (one.proposal.generation, one.proposal.slot) == (generation, slot)]
    if not found:
        raise CampaignError(f"no try at slot {slot} of generation {generation}; both are counted from 0")
    return found


def _calls(campaign: Campaign, tries: Sequence[SlotTry]) -> str:
    log = CallLog(campaign.paths.calls, campaign.paths.text)
    calls = log.calls()
    return calls_text(keys_of(tries, calls), calls, log.text)

"""`arch-search status`: where a campaign stands, from its files alone."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from arch_search.agents.call_log import CallLog
from arch_search.analysis.status import status_values
from arch_search.campaign import Campaign, open_campaign
from arch_search.generation import admitted, packs_of, read_tries, shard_of
from arch_search.reporting import (
    best_in_words,
    everything_so_far,
    ranking,
    role_calls,
    seconds_left,
    tasks_done,
    tasks_planned,
)

_WATCH_EVERY_S = 5


def run(options: argparse.Namespace) -> int:
    campaign = open_campaign(Path(options.dir))
    while True:
        facts = status(campaign)
        print(json.dumps(facts, indent=1) if options.json else _text(facts))
        if not options.watch or facts["finished"]:
            return 0
        sys.stdout.flush()
        time.sleep(_WATCH_EVERY_S)


def status(campaign: Campaign) -> dict[str, Any]:
    """Where the campaign stands, as JSON values; the keys are part of the command's contract."""
    number = campaign.generations_closed()
    contents = everything_so_far(campaign)
    config = campaign.config
    done, planned = tasks_done(campaign), tasks_planned(campaign)
    return {
        "dir": str(campaign.paths.root),
        **status_values(
            campaign=config.campaign.name,
            uuid=campaign.uuid,
            generation=min(number, config.campaign.generations),
            generations_total=config.campaign.generations,
            finished=campaign.is_finished(),
            tasks_by_state=_units(campaign, number),
            standings=ranking(campaign, contents),
            calls=role_calls(CallLog(campaign.paths.calls, campaign.paths.text)),
            metric=config.selection.metric,
            confidence=config.selection.confidence,
            seconds_left=seconds_left(campaign),
        ),
        "proposed": len(contents.tries),
        "admitted": sum(one.candidate is not None for one in contents.tries),
        "trainings_done": done,
        "trainings_planned": planned,
        "trainings_failed": sum(one.ending != "finished" for one in contents.evaluations),
        "report": str(campaign.paths.report) if campaign.paths.report.exists() else None,
    }


def _units(campaign: Campaign, number: int) -> dict[str, int]:
    """Units of the open generation: with a shard, with a heartbeat, or still waiting."""
    if number > campaign.config.campaign.generations:
        return {}
    paths = campaign.generation(number)
    packs = packs_of(number, admitted(read_tries(paths)), campaign.config, attempt=1)
    done = sum(shard_of(paths, pack.unit) is not None for pack in packs)
    begun = sum(shard_of(paths, pack.unit) is None and paths.unit(pack.unit).heartbeat.exists() for pack in packs)
    return {"done": done, "begun": begun, "waiting": len(packs) - done - begun}


def _text(facts: dict[str, Any]) -> str:
    units = ", ".join(f"{count} {state}" for state, count in facts["tasks"].items()) or "none"
    tokens = facts["tokens"]
    return "\n".join(
        (
            f"campaign    {facts['campaign']} in {facts['dir']}{' (finished)' if facts['finished'] else ''}",
            f"generation  {facts['generation']} of {facts['generations_total']}; units: {units}",
            f"proposed    {facts['proposed']}, admitted {facts['admitted']}",
            f"trainings   {facts['trainings_done']} of {facts['trainings_planned']}; "
            f"{facts['trainings_failed']} failed",
            f"best        {best_in_words(facts['best'], facts['metric'])}",
            f"model       {tokens['calls']} replies, {tokens['reply']} tokens",
            *([f"report      {facts['report']}"] if facts["report"] else []),
        )
    )

"""`arch-search status`: where a campaign stands, from its files alone."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from arch_search.agents.call_log import CallLog
from arch_search.campaign import Campaign, open_campaign
from arch_search.generation import admitted, packs_of, read_tries, shard_of
from arch_search.reporting import best_so_far, everything_so_far, model_speed, tasks_done, tasks_planned

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
    tries = contents.tries
    return {
        "campaign": campaign.config.campaign.name,
        "dir": str(campaign.paths.root),
        "finished": campaign.is_finished(),
        "generation": min(number, campaign.config.campaign.generations),
        "generations": campaign.config.campaign.generations,
        "proposed": len(tries),
        "admitted": sum(one.candidate is not None for one in tries),
        "trainings_done": tasks_done(campaign),
        "trainings_planned": tasks_planned(campaign),
        "trainings_failed": sum(one.ending != "finished" for one in contents.evaluations),
        "units": _units(campaign, number),
        "best": best_so_far(campaign, contents),
        "model": model_speed(CallLog(campaign.paths.calls, campaign.paths.text)),
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
    units = ", ".join(f"{count} {state}" for state, count in facts["units"].items()) or "none"
    return "\n".join(
        (
            f"campaign    {facts['campaign']} in {facts['dir']}{' (finished)' if facts['finished'] else ''}",
            f"generation  {facts['generation']} of {facts['generations']}; units: {units}",
            f"proposed    {facts['proposed']}, admitted {facts['admitted']}",
            f"trainings   {facts['trainings_done']} of {facts['trainings_planned']}, {facts['trainings_failed']} failed",
            f"best        {facts['best']}",
            f"model       {facts['model']}",
            *([f"report      {facts['report']}"] if facts["report"] else []),
        )
    )

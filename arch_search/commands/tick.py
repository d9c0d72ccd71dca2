"""`arch-search tick`: one step of the loop, for cron; a model server that it needed stays up for the next tick."""

from __future__ import annotations

import argparse
from pathlib import Path

from arch_search.campaign import driver_lease, open_campaign
from arch_search.driver import Driver


def run(options: argparse.Namespace) -> int:
    campaign = open_campaign(Path(options.dir))
    with driver_lease(campaign.paths):
        driver = Driver(campaign, print)
        tick = driver.tick()
        if tick.finished:
            driver.model.stop()
    print("finished" if tick.finished else tick.waiting or "more is due: tick again")
    return 0

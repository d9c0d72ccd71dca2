"""`arch-search tick`: what is due, then back, for cron; a model server that it needed stays up for the next tick."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from arch_search.campaign import open_campaign
from arch_search.display import Display
from arch_search.driver import Driver
from arch_search.errors import LeaseHeldError
from arch_search.lease import driver_lease
from arch_search.stopping import StopRequest, StopWatch, stop_requested


def run(options: argparse.Namespace) -> int:
    campaign = open_campaign(Path(options.dir))
    paths = campaign.paths
    if stop_requested(paths):
        print(f"stopped by request; go on with: arch-search run {paths.root}")
        return 0
    display = Display(campaign, sys.stdout)
    watch = StopWatch(paths, limit_s=options.limit_min * 60)
    try:
        with driver_lease(paths, lease_s=campaign.config.slurm.lease_s) as lease, watch, display:

            def end(request: StopRequest) -> None:
                lease.release()
                display.say(f"{request.reason}; the next tick goes on")

            watch.on_end(end, lease=lease)
            driver = Driver(campaign, display.say, lease=lease, watch=watch, comes_back=True)
            tick = watch.run(driver.run_while_due)
    except LeaseHeldError as error:
        print(error)
        return 0
    print("finished" if tick.finished else tick.waiting)
    return 0

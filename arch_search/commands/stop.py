"""`arch-search stop`: end the driver of a campaign, wherever it runs; `run` or `submit` goes on."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from arch_search.campaign import Campaign, open_campaign
from arch_search.ending import end_work
from arch_search.errors import LeaseHeldError
from arch_search.lease import current_holder, driver_lease
from arch_search.stopping import StopRequest, request_stop

_LOOK_EVERY_S = 0.5


def run(options: argparse.Namespace) -> int:
    campaign = open_campaign(Path(options.dir))
    request_stop(campaign.paths, cancel=options.cancel)
    until = time.monotonic() + options.wait_s
    while not _ended(campaign, cancel=options.cancel):
        if time.monotonic() > until:
            holder = current_holder(campaign.paths)
            words = holder.words() if holder else "unknown"
            print(f"asked to stop: {words}; it has not ended within {options.wait_s} s, and ends at its next poll")
            return 1
        time.sleep(_LOOK_EVERY_S)
    print(f"stopped; go on with: arch-search run {campaign.paths.root}")
    return 0


def _ended(campaign: Campaign, *, cancel: bool) -> bool:
    """Whether no driver is left; then what one may have left behind is taken away."""
    request = StopRequest(reason="arch-search stop", cancel=cancel, lasting=True)
    try:
        with driver_lease(campaign.paths, lease_s=campaign.config.slurm.lease_s):
            end_work(campaign, request, say=print)
    except LeaseHeldError:
        return False
    return True

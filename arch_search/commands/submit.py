"""`arch-search submit`: the driver as a small job that queues the next one before its time is over."""

from __future__ import annotations

import argparse
import time

from arch_search import driver_job
from arch_search.campaign import open_campaign
from arch_search.commands.run import Asked, asked_for
from arch_search.errors import CampaignError
from arch_search.launching import preflight
from arch_search.lease import driver_lease
from arch_search.stopping import clear_stop, stop_requested
from slurm.service import ServiceJob

_ENDING_LIMIT_S = 30.0
_LOOK_S = 5.0  # each look is a squeue


def run(options: argparse.Namespace) -> int:
    asked = asked_for(options.overrides)
    job = _queued(asked)
    if job is not None:
        print(f"driver job {job.job_id} is in the queue already for {asked.paths.root}; nothing submitted")
        return 0
    with driver_lease(asked.paths, lease_s=asked.config.slurm.lease_s):
        campaign = asked.campaign()
        preflight(campaign)
        clear_stop(asked.paths)
        job = driver_job.submit_first(campaign, asked.words_to_go_on())
    print(f"driver job {job.job_id} submitted for {asked.paths.root}; its output: {job.log}")
    return 0


def _queued(asked: Asked) -> ServiceJob | None:
    """The driver job that is in the queue; one that was asked to stop is given time to end."""
    if not asked.paths.campaign_json.exists():
        return None
    campaign = open_campaign(asked.paths.root)
    until = time.monotonic() + _ENDING_LIMIT_S
    while (job := driver_job.queued(campaign)) is not None and stop_requested(asked.paths):
        if time.monotonic() > until:
            raise CampaignError(f"driver job {job.job_id} was asked to stop and has not ended yet; try again")
        time.sleep(_LOOK_S)
    return job

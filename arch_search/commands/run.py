"""`arch-search run`: start a campaign or go on with it, with a live view where there is a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from arch_search import driver_job
from arch_search.campaign import Campaign, campaign_folder, open_campaign, open_or_create
from arch_search.config import Config
from arch_search.display import Display
from arch_search.driver import Driver
from arch_search.ending import end_work
from arch_search.lease import Lease, driver_lease
from arch_search.paths import CampaignPaths
from arch_search.reporting import ranking_table
from arch_search.settings import load_config
from arch_search.stopping import DriverStopped, StopRequest, StopWatch, clear_stop, stop_requested
from slurm.errors import SlurmError

CAMPAIGNS = Path("campaigns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The campaign that the words of the command line name, and its settings."""

    paths: CampaignPaths
    config: Config
    words: tuple[str, ...]

    def campaign(self) -> Campaign:
        """Open it or create it; the caller holds its lease."""
        return open_or_create(self.paths.root, self.config, command=["arch-search", "run", *self.words])

    def words_to_go_on(self) -> list[str]:
        """What names the same campaign, settings and all, once it is there."""
        if not any("=" in word for word in self.words):
            return [str(self.paths.root)]
        kept = [word for word in self.words if not word.startswith("campaign.dir=")]
        return [*kept, f"campaign.dir={self.paths.root}"]


def asked_for(words: Sequence[str]) -> Asked:
    """Read `FOLDER` or `key=value ...`; a folder alone goes on with the settings it was started with."""
    if len(words) == 1 and "=" not in words[0]:
        found = open_campaign(Path(words[0]))
        return Asked(paths=found.paths, config=found.config, words=tuple(words))
    config = load_config(words)
    folder = campaign_folder(config, base=CAMPAIGNS)
    return Asked(paths=CampaignPaths(folder), config=config, words=tuple(words))


def run(options: argparse.Namespace) -> int:
    asked = asked_for(options.overrides)
    if options.driver_job is not None:
        return _run_as_job(asked, options.driver_job)
    with driver_lease(asked.paths, lease_s=asked.config.slurm.lease_s) as lease, StopWatch(asked.paths) as watch:
        clear_stop(asked.paths)
        campaign = asked.campaign()
        _drive(campaign, asked, lease, watch)
    for line in ranking_table(campaign):
        print(line)
    print(f"report: {campaign.paths.report}")
    return 0


def _run_as_job(asked: Asked, number: int) -> int:
    """Driver job `number` of a chain; it obeys a stop request from before its start."""
    if stop_requested(asked.paths):
        print(f"{asked.paths.root}: stopped by request; arch-search submit goes on")
        return 0
    campaign = asked.campaign()
    if not campaign.is_finished():
        _queue_next(campaign, asked, number)
    lease_s = asked.config.slurm.lease_s
    with StopWatch(asked.paths) as watch:
        try:
            with driver_lease(asked.paths, lease_s=lease_s, waits=True, sleep=watch.sleep) as lease:
                # once more at the end: at the start there may have been no room in the queue
                _drive(campaign, asked, lease, watch, before_end=lambda: _queue_next(campaign, asked, number))
        except DriverStopped as stopped:
            watch.leave(stopped.request)
    with suppress(SlurmError):  # the next job would find a finished campaign
        driver_job.cancel_chain(campaign)
    return 0


def _queue_next(campaign: Campaign, asked: Asked, number: int) -> None:
    """A driver without a successor in the queue is better than none."""
    try:
        driver_job.submit_next(campaign, number, asked.words_to_go_on())
    except SlurmError as error:
        print(f"the next driver job is not queued: {error}", file=sys.stderr)


def _drive(
    campaign: Campaign,
    asked: Asked,
    lease: Lease,
    watch: StopWatch,
    before_end: Callable[[], None] = lambda: None,
) -> None:
    """Run to the end; ends the process when somebody wants that, after `before_end` where it is to go on later."""
    with Display(campaign, sys.stdout) as display:

        def end(request: StopRequest) -> None:
            if not lease.is_held():
                display.__exit__(None, None, None)
                print(f"arch-search run: {request.reason}", file=sys.stderr)
                return
            display.say(f"stopping: {request.reason}")
            if not request.lasting:
                before_end()
            end_work(campaign, request, say=display.say)
            lease.release()
            display.__exit__(None, None, None)
            print(f"stopped; go on with the same command, or: arch-search run {campaign.paths.root}")

        watch.on_end(end, lease=lease)

        def work() -> None:
            driver = Driver(campaign, display.say, lease=lease, watch=watch)
            display.follow(driver)
            driver.run()

        watch.run(work)

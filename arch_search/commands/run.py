"""`arch-search run`: start a campaign or go on with it, with a live view where there is a terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from arch_search.campaign import driver_lease, start_or_continue
from arch_search.display import Display
from arch_search.driver import Driver
from arch_search.settings import load_config

CAMPAIGNS = Path("campaigns")


def run(options: argparse.Namespace) -> int:
    config = load_config(options.overrides)
    campaign = start_or_continue(config, command=["arch-search", "run", *options.overrides], base=CAMPAIGNS)
    with driver_lease(campaign.paths), Display(campaign, sys.stdout) as display:
        driver = Driver(campaign, display.say)
        display.follow(driver)
        driver.run()
    print(f"report: {campaign.paths.report}")
    return 0

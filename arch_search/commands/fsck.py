"""`arch-search fsck`: every invariant of a campaign folder; exit 1 if one is broken."""

from __future__ import annotations

import argparse
from pathlib import Path

from arch_search.campaign import open_campaign
from arch_search.integrity import check_campaign


def run(options: argparse.Namespace) -> int:
    campaign = open_campaign(Path(options.dir))
    problems = check_campaign(campaign)
    for problem in problems:
        print(f"{problem.where}: {problem.what}")
    print(f"{campaign.paths.root}: {'clean' if not problems else f'{len(problems)} problems'}")
    return 1 if problems else 0

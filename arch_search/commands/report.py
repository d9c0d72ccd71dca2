"""`arch-search report`: write report.html anew from the archive."""

from __future__ import annotations

import argparse
from pathlib import Path

from arch_search.agents.call_log import CallLog
from arch_search.campaign import open_campaign
from arch_search.reporting import write_campaign_report


def run(options: argparse.Namespace) -> int:
    campaign = open_campaign(Path(options.dir))
    write_campaign_report(campaign, CallLog(campaign.paths.calls, campaign.paths.text))
    print(campaign.paths.report)
    return 0

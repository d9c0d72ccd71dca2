"""`arch-search show`: program, lineage, verdicts, curve and lesson of one candidate."""

from __future__ import annotations

import argparse
from pathlib import Path

from arch_search.analysis.show import find_candidate, show_text
from arch_search.campaign import open_campaign
from arch_search.reporting import everything_so_far, reference_id


def run(options: argparse.Namespace) -> int:
    campaign = open_campaign(Path(options.dir))
    contents = everything_so_far(campaign)
    candidate = find_candidate(contents, options.id)
    selection = campaign.config.selection
    print(
        show_text(
            contents,
            candidate,
            reference_id=reference_id(contents),
            metric=selection.metric,
            confidence=selection.confidence,
        )
    )
    return 0

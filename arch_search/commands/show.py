"""`arch-search show`: program, lineage, verdicts, curve and lesson of one candidate."""

from __future__ import annotations

import argparse
from pathlib import Path

from arch_search.analysis.show import show_text
from arch_search.campaign import open_campaign
from arch_search.errors import ConfigError
from arch_search.reporting import everything_so_far
from cognition_db.records import Candidate


def run(options: argparse.Namespace) -> int:
    campaign = open_campaign(Path(options.dir))
    contents = everything_so_far(campaign)
    candidate = _find(contents.candidates, options.id)
    print(show_text(contents, candidate))
    return 0


def _find(candidates: tuple[Candidate, ...], wanted: str) -> Candidate:
    found = [one for one in candidates if one.id.startswith(wanted) or one.name == wanted]
    if len(found) == 1:
        return found[0]
    if not found:
        names = ", ".join(one.name for one in candidates[:12]) or "none yet"
        raise ConfigError(f"no candidate {wanted!r} in this campaign; there are {names}")
    raise ConfigError(f"{wanted!r} names {len(found)} candidates ({', '.join(one.id for one in found)}); give more digits")

"""Where the ideas of programs come from, of those that were better beyond noise and of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arch_search.analysis.arms import Share, share_of
from arch_search.analysis.statistics import Standing
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import SlotTry

UNSOURCED = "literature, but none of its sources was in the prompt"
UNSAID = "not said"
_ORDER = ("literature", UNSOURCED, "analysis", "original", "hand", UNSAID)


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginRow:
    """One origin: its share of the better programs, of the other measured ones, and of all proposals."""

    origin: str
    better: Share
    others: Share
    proposals: Share


def provenance(contents: ArchiveContents, standings: Sequence[Standing], *, confidence: float) -> tuple[OriginRow, ...]:
    """The origins that occur, as the Planner or the researcher said them; nothing where no idea was recorded."""
    verdicts = {row.candidate_id: row.verdict for row in standings}
    # of a mutation only what steered it is on record
    recorded = [tried for tried in contents.tries if (said := tried.proposal.writing) and (said.origin or said.calls)]
    measured = [(one, verdicts.get(one.candidate.id, "not_measured")) for one in recorded if one.candidate]
    better = [one for one, verdict in measured if verdict == "better"]
    others = [one for one, verdict in measured if verdict in ("worse", "within_noise")]

    def share(tries: Sequence[SlotTry], origin: str) -> Share:
        return share_of(sum(origin_of(one) == origin for one in tries), len(tries), confidence)

    there = {origin_of(one) for one in recorded}
    return tuple(
        OriginRow(
            origin=origin, better=share(better, origin), others=share(others, origin), proposals=share(recorded, origin)
        )
        for origin in _ORDER
        if origin in there
    )


def origin_of(tried: SlotTry) -> str:
    """The origin that was said; a claim of literature without a source from the prompt is a row of its own."""
    writing = tried.proposal.writing
    if writing is None or not writing.origin:
        return UNSAID
    if writing.origin == "literature" and not set(writing.sources) - set(writing.unfounded):
        return UNSOURCED
    return writing.origin

"""Rates of the rungs: of the programs asked for, how many could be read, were admitted and were new, level by level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cognition_db.records import Rung, SlotTry


@dataclass(frozen=True, slots=True, kw_only=True)
class RungRates:
    """Counts of the tries of one rung; each try is refused at most once.

    The three levels of novelty are `same_text` (after normalisation), `near_text` (a mark on admitted programs) and
    `same_behaviour`. A reply that copies its parent makes no program, so it is in none but `asked`.
    """

    rung: Rung
    asked: int
    parsed: int  # the reply, or what it was repaired to, made a program
    admitted_at_once: int
    admitted_after_repair: int
    repeats_failure: int  # refused as the text of a program that had failed
    same_text: int
    same_behaviour: int
    near_text: int  # admitted, but the same change as an earlier one up to the threshold

    @property
    def admitted(self) -> int:
        return self.admitted_at_once + self.admitted_after_repair

    @property
    def new(self) -> int:
        """Admitted and new by all three levels."""
        return self.admitted - self.near_text


def rates(tries: Sequence[SlotTry]) -> tuple[RungRates, ...]:
    """One row for every rung, in the order of their first try; baselines are given and left out."""
    asked = [tried for tried in tries if tried.proposal.arm != "baseline"]
    return tuple(
        _of_rung(rung, [tried for tried in asked if tried.proposal.rung == rung])
        for rung in dict.fromkeys(tried.proposal.rung for tried in asked)
    )


def _of_rung(rung: Rung, tries: Sequence[SlotTry]) -> RungRates:
    refused = [_refusing_check(tried) for tried in tries]
    admitted = [tried for tried in tries if tried.candidate is not None]
    return RungRates(
        rung=rung,
        asked=len(tries),
        parsed=sum(bool(tried.proposal.program) for tried in tries),
        admitted_at_once=sum(not tried.proposal.repairs for tried in admitted),
        admitted_after_repair=sum(bool(tried.proposal.repairs) for tried in admitted),
        repeats_failure=refused.count("duplicate_failure"),
        same_text=refused.count("duplicate_text"),
        same_behaviour=refused.count("duplicate_behaviour"),
        near_text=sum(_is_near(tried) for tried in admitted),
    )


def _refusing_check(tried: SlotTry) -> str:
    return tried.refusing.check if tried.refusing else ""


def _is_near(tried: SlotTry) -> bool:
    return any(verdict.check == "near_duplicate" and verdict.outcome == "failed" for verdict in tried.verdicts)

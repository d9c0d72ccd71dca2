"""What a generation offered to the toolbox, what became of it, and the toolbox that grows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arch_search.proposals.registry import Grown, Primitive, Signature, Toolbox
from cognition_db.records import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One function of a program of free code, or the whole program where none was looked at, and what became of it.

    `gain` is the program's improvement over the reference in the metric of the selection, with the interval for itself
    alone; what the function alone contributes was not measured.
    """

    candidate_id: str
    gain: float
    low: float
    high: float
    line: int = 0  # of its program
    name: str = ""
    source: str = ""
    reads_past: bool = False  # an output depends on earlier tokens too
    verdicts: tuple[Verdict, ...] = ()  # of the checks on the reference with this primitive in it
    reason: str = ""  # why it did not enter; empty: it did


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """All offers of one generation."""

    offers: tuple[Offer, ...] = ()

    @property
    def entered(self) -> tuple[Offer, ...]:
        return tuple(one for one in self.offers if not one.reason)


def toolbox_of(growths: Sequence[Growth]) -> Toolbox:
    """The built-in toolbox and what entered it, in the order of the generations."""
    return Toolbox(tuple(Grown(primitive=_primitive(one), source=one.source) for g in growths for one in g.entered))


def _primitive(offer: Offer) -> Primitive:
    does = "mixes a token with earlier ones" if offer.reads_past else "changes each token alone"
    return Primitive(
        name=offer.name,
        call=offer.name,
        home="function",
        signatures=(Signature(takes=("vector",), gives="vector"),),
        doc=f"found in this campaign, {does}; its program gained {offer.gain:.3g}",
        causal="proved by the checks of admission",
        cost="within the limit of admission",
    )

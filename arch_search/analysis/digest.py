"""Rolling summaries of a lineage and of the campaign: counted outcomes first, a model's words beside them."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from arch_search.analysis.lessons import WORDS
from arch_search.analysis.relatives import Measured
from arch_search.analysis.statistics import Verdict
from arch_search.analysis.text import short, signed
from cognition_db.records import PARENT_ARMS, Candidate

_COMPONENTS = 8
_CHANGE = 140  # columns of one idea
_COUNTED: tuple[Verdict, ...] = ("better", "worse", "within_noise", "not_measured")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`counts` and `ideas` are one computed sentence each; `words` are a model's, empty where none was asked."""

    counts: str
    ideas: str
    words: str = ""
    reply_sha256: str = ""

    @property
    def computed(self) -> str:
        return f"{self.counts} {self.ideas}".strip()

    @property
    def text(self) -> str:
        return f"{self.computed} {self.words}".strip()

    @property
    def brief(self) -> str:
        """At most two sentences: the model's, or else the computed ones."""
        return " ".join(_SENTENCE_END.split(self.words)[:2]) or self.computed


@dataclass(frozen=True, slots=True, kw_only=True)
class Summaries:
    """What one generation left: of the campaign so far, and of every lineage that it added a program to."""

    campaign: Summary
    lineages: dict[str, Summary]


def computed_summaries(measured: Measured, number: int) -> Summaries:
    """Without words. Programs of baselines, placebos and of the control count nowhere: nobody builds on them."""
    lineages: dict[str, list[Candidate]] = defaultdict(list)
    for key in measured.families:
        one = measured.candidates[key]
        if one.arm in PARENT_ARMS:
            lineages[measured.lineage(one)].append(one)
    return Summaries(
        campaign=computed_summary(measured, [one for several in lineages.values() for one in several]),
        lineages={
            key: computed_summary(measured, several)
            for key, several in lineages.items()
            if any(one.generation == number for one in several)
        },
    )


def computed_summary(measured: Measured, programs: Sequence[Candidate]) -> Summary:
    """Outcomes by the components in which programs differ from the reference, and the best and the worst idea."""
    outcomes: dict[str, Counter[Verdict]] = defaultdict(Counter)
    for one in programs:
        for component in measured.families[one.id]:
            outcomes[component][measured.standings[one.id].verdict] += 1
    ranked = sorted(outcomes, key=lambda component: (-outcomes[component].total(), component))
    counted = "; ".join(f"{component} {_counted(outcomes[component])}" for component in ranked[:_COMPONENTS])
    return Summary(
        counts=f"Outcomes against the reference by changed component: {counted}." if counted else "",
        ideas=_ideas(measured, programs),
    )


def _counted(outcomes: Counter[Verdict]) -> str:
    words = {"better": "better", "worse": "worse", "within_noise": "no different", "not_measured": "not measured"}
    return ", ".join(f"{outcomes[verdict]} {words[verdict]}" for verdict in _COUNTED if outcomes[verdict])


def _ideas(measured: Measured, programs: Sequence[Candidate]) -> str:
    found = [one for one in programs if math.isfinite(measured.standings[one.id].improvement)]
    if not found:
        return ""
    ranked = sorted(found, key=lambda one: (-measured.standings[one.id].improvement, one.id))
    worst = f"; worst: {_idea(measured, ranked[-1])}" if len(ranked) > 1 else ""
    return f"Best: {_idea(measured, ranked[0])}{worst}."


def _idea(measured: Measured, one: Candidate) -> str:
    row = measured.standings[one.id]
    return f"{short(one.motivation or one.name, _CHANGE)} ({signed(row.improvement)}, {WORDS[row.verdict]})"

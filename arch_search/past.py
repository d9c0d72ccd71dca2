"""What was tried before in a campaign and what became of it: failures not to repeat, and what a writer is told.

Pure over the archive and the tries of earlier rounds, so that neither the order of answers nor a kill changes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from arch_search.analysis.parents import against_parents
from arch_search.analysis.text import short
from arch_search.config import Selection
from arch_search.drawing import Drawn
from arch_search.generation import is_of_search, is_reference
from arch_search.proposals.assignment import Assignment
from arch_search.proposals.fingerprint import normal_form_or_empty
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import SlotTry

# refusals that say nothing of the program itself: another was there before it, it was banned, the machine was busy
_SAYS_NOTHING = frozenset(
    {"duplicate_failure", "duplicate_text", "duplicate_behaviour", "steering", "time", "memory", "processes", "crash"}
)
# endings of a training that are the program's own; the others may be the machine's
_OWN_ENDINGS = frozenset({"non_finite", "too_slow", "below_floor", "tampered"})
# their reasons are worded by the framework alone; others may hold words of a program or a model
_OWN_REASONS = frozenset(
    {"causality", "batch_rows", "cost", "duplicate_failure", "duplicate_text", "duplicate_behaviour"}
)
_LINES = 4
_CHANGE_COLUMNS, _REASON_COLUMNS = 140, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a candidate, in a few words."""

    words: str
    is_failure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """All tries of earlier generations and rounds, and what was measured of the candidates among them."""

    tries: tuple[SlotTry, ...] = ()
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)

    def failures(self) -> dict[str, str]:
        """Programs not worth another try, by normal form: where each was tried first and what became of it."""
        found: dict[str, str] = {}
        for tried in self.tries:
            proposal, words = tried.proposal, _failure(tried, self.outcomes)
            form = normal_form_or_empty(proposal.program) if words and is_of_search(proposal.arm) else ""
            if form:
                found.setdefault(form, f"gen {proposal.generation} slot {proposal.slot}, {words}")
        return found


def outcomes(contents: ArchiveContents, selection: Selection) -> dict[str, Outcome]:
    """What was measured of every candidate, against its first parent; nothing of those that were not trained."""
    reference = next((one for one in contents.candidates if is_reference(one)), None)
    if reference is None:
        return {}
    compared = against_parents(
        contents, reference_id=reference.id, metric=selection.metric, confidence=selection.confidence
    )
    found = {key: _gain(one.improvement, one.low, one.high) for key, one in compared.items()}
    for evaluation in contents.evaluations:
        if evaluation.ending != "finished":
            words = f"its training ended {evaluation.ending}"
            found[evaluation.task.candidate_id] = Outcome(words=words, is_failure=evaluation.ending in _OWN_ENDINGS)
    return found


def informed(number: int, drawn: Drawn, past: Past) -> Drawn:
    """The try of generation `number` with what was already tried at its place; the control is told of nothing."""
    if drawn.assignment is None or drawn.plan.arm != "evolve":
        return drawn
    return replace(
        drawn, assignment=replace(drawn.assignment, tried=_tried_here(number, drawn, drawn.assignment, past))
    )


def _gain(improvement: float, low: float, high: float) -> Outcome:
    if high < 0:
        return Outcome(words=f"worse by {-improvement:.3g}", is_failure=True)
    return Outcome(words=f"better by {improvement:.3g}" if low > 0 else "no gain")


def _failure(tried: SlotTry, outcomes: Mapping[str, Outcome]) -> str:
    """Why the program is not worth another try; empty where it may be."""
    if tried.candidate is not None:
        outcome = outcomes.get(tried.candidate.id)
        return outcome.words if outcome and outcome.is_failure else ""
    refusing = tried.refusing
    if refusing is None or refusing.check in _SAYS_NOTHING:
        return ""
    return f"refused: {refusing.check}: {refusing.reason}"


def _tried_here(number: int, drawn: Drawn, assignment: Assignment, past: Past) -> tuple[str, ...]:
    """This slot's own tries first, wherever they went; then those from the same parent, by the same idea, the last."""
    insight = assignment.insight.id if assignment.insight else ""

    def is_own(tried: SlotTry) -> bool:
        return (tried.proposal.generation, tried.proposal.slot) == (number, drawn.plan.slot)

    def nearness(tried: SlotTry) -> tuple[bool, bool, bool, int, int, int]:
        proposal = tried.proposal
        return (
            is_own(tried),
            assignment.parent.id in proposal.parents,
            insight in proposal.insights,
            proposal.generation,
            proposal.attempt,
            -proposal.slot,
        )

    made = [tried for tried in past.tries if is_of_search(tried.proposal.arm)]
    here = [tried for tried in made if is_own(tried) or _is_at(tried, assignment)]
    lines = (_line(tried, past.outcomes) for tried in sorted(here, key=nearness, reverse=True))
    return tuple(dict.fromkeys(filter(None, lines)))[:_LINES]


def _is_at(tried: SlotTry, assignment: Assignment) -> bool:
    """Whether it changed the same hook or method, or was written on the same rung where no method is given."""
    if assignment.method:
        return tried.proposal.method == assignment.method
    return tried.proposal.rung == assignment.rung


def _line(tried: SlotTry, outcomes: Mapping[str, Outcome]) -> str:
    """The change, as derived from the two programs, and what became of it; empty where neither is known."""
    change = short(tried.proposal.motivation, _CHANGE_COLUMNS) or "a reply that made no program"
    if tried.candidate is not None:
        outcome = outcomes.get(tried.candidate.id)
        return f"{change}: {outcome.words}" if outcome else ""
    refusing = tried.refusing
    if refusing is None:
        return ""
    reason = f", {short(refusing.reason, _REASON_COLUMNS)}" if refusing.check in _OWN_REASONS else ""
    return f"{change}: refused ({refusing.check}{reason})"

"""What the programs of each rung cost, how many gained, and how many lie outside the toolbox. Pure over the archive."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from arch_search.analysis.arms import OverParents, Share, share_of
from arch_search.analysis.rates import rates
from arch_search.errors import ProposalError
from arch_search.proposals import splice
from arch_search.proposals.registry import BUILT_IN, BY_HOOK, Toolbox
from arch_search.proposals.rendering import MIXER, is_toolbox_program
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import SlotTry

_GIVEN = ("baseline", "placebo")  # arms whose programs nobody searched for


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """One rung, or all of them. Costs are per admitted program, NaN without one, and count the refused tries too."""

    label: str
    asked: int
    parsed: int  # the reply made a program
    admitted: int
    repaired: int  # of the admitted, after a repair
    new: int  # of the admitted, on all levels of novelty
    gained: Share  # of the measured, better than their parent
    model_s: float
    tokens: float  # of prompts and replies
    training_s: float  # wall time of all trainings
    outside: Share  # of the programs that were tried
    outside_admitted: Share


def reaches(
    contents: ArchiveContents, *, reference_id: str, parents: OverParents, confidence: float, toolbox: Toolbox
) -> tuple[Reach, ...]:
    """One row per rung in the order of their first proposal, and last one of all; nothing before the first."""
    tries = [one for one in contents.tries if one.proposal.arm not in _GIVEN]
    rungs = list(dict.fromkeys(one.proposal.rung for one in tries))
    reference = next((one.program for one in contents.candidates if one.id == reference_id), "")
    seconds: dict[str, list[float]] = {}
    for run in contents.evaluations:
        seconds.setdefault(run.task.candidate_id, []).append(run.wall_s)
    groups = {str(rung): [one for one in tries if one.proposal.rung == rung] for rung in rungs}
    if len(groups) > 1:
        groups["all"] = tries
    return tuple(
        _reach(label, group, reference, parents=parents, seconds=seconds, confidence=confidence, toolbox=toolbox)
        for label, group in groups.items()
    )


def simpler(contents: ArchiveContents, *, parents: OverParents, confidence: float) -> Share:
    """Of the measured programs that lack a component of their parent, those that are not worse than it beyond noise."""
    ids = [one.id for one in contents.candidates if one.rung == "simplify"]
    compared = [parents[key] for key in ids if key in parents and math.isfinite(parents[key].high)]
    return share_of(sum(one.high >= 0 for one in compared), len(compared), confidence)


@lru_cache(maxsize=4096)
def is_outside(program: str, reference: str, toolbox: Toolbox) -> bool:
    """Whether a program is none that the hooks of the reference and primitives of the toolbox can express.

    It is not rendered from the toolbox, or its mixer differs from the reference's in more than its hooks. Raises
    ProposalError where it does not parse.
    """
    return not is_toolbox_program(program, toolbox) or not _own_methods(program) <= _own_methods(reference)


def _own_methods(program: str) -> frozenset[str]:
    """Text of the methods of the mixer that are no hooks."""
    found = splice.methods(splice.without_words(program), MIXER)
    return frozenset(ast.unparse(node) for name, node in found.items() if name not in BY_HOOK)


def _reach(
    label: str,
    tries: Sequence[SlotTry],
    reference: str,
    *,
    parents: OverParents,
    seconds: Mapping[str, Sequence[float]],
    confidence: float,
    toolbox: Toolbox,
) -> Reach:
    candidates = [one.candidate for one in tries if one.candidate]
    compared = [parents[one.id] for one in candidates if one.id in parents]
    counts = rates(tries)
    written = [one.proposal.writing for one in tries if one.proposal.writing]

    def per_admitted(values: Sequence[float]) -> float:
        return math.fsum(values) / len(candidates) if candidates else math.nan

    def outside(programs: Sequence[str]) -> Share:
        known = [found for one in programs if (found := _outside_or_none(one, reference, toolbox)) is not None]
        return share_of(sum(known), len(known), confidence)

    return Reach(
        label=label,
        asked=len(tries),
        parsed=sum(one.parsed for one in counts),
        admitted=len(candidates),
        repaired=sum(one.admitted_after_repair for one in counts),
        new=sum(one.new for one in counts),
        gained=share_of(sum(one.low > 0 for one in compared), len(compared), confidence),
        model_s=per_admitted([one.model_s for one in written]),
        tokens=per_admitted([one.prompt_tokens + one.reply_tokens for one in written]),
        training_s=per_admitted([spent for one in candidates for spent in seconds.get(one.id, ())]),
        outside=outside([one.proposal.program for one in tries if one.proposal.program]),
        outside_admitted=outside([one.program for one in candidates]),
    )


def _outside_or_none(program: str, reference: str, toolbox: Toolbox) -> bool | None:
    """None where the question has no answer: the program does not parse, or the reference has no hooks either."""
    try:
        return is_outside(program, reference, toolbox) if is_toolbox_program(reference, BUILT_IN) else None
    except ProposalError:
        return None

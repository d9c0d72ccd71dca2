"""What kind of program a candidate is: the components it changes, and what a step of its training costs."""

from __future__ import annotations

import math
from functools import lru_cache

from arch_search.errors import ProposalError
from arch_search.proposals import splice
from arch_search.proposals.registry import BY_HOOK
from arch_search.proposals.rendering import MIXER
from arch_search.selection.pool import Pool
from cognition_db.records import Candidate

FREE = "free code"


def cell_of(candidate: Candidate, pool: Pool) -> tuple[tuple[str, ...], int]:
    """Changed components, and the cost of a step in half octaves of the reference's."""
    cost, unit = _step_s(candidate.id, pool), _step_s(pool.reference.id, pool)
    octaves = round(2.0 * math.log2(cost / unit)) if cost > 0 and unit > 0 else 0
    return family_of(candidate.program, pool.reference.program), octaves


def family_of(program: str, reference: str) -> tuple[str, ...]:
    """Names of the hooks in which a program differs from the reference; FREE for one without hooks."""
    mine, before = _hooks(program), _hooks(reference)
    if mine is None or before is None:
        return (FREE,)
    return tuple(sorted(name for name in mine.keys() | before.keys() if mine.get(name) != before.get(name)))


@lru_cache(maxsize=4096)
def _hooks(program: str) -> dict[str, str] | None:
    """Text of each hook; None for a program that has none."""
    try:
        methods = splice.methods(program, MIXER)
    except (ProposalError, SyntaxError):
        return None
    return {name: splice.source_of(program, node) for name, node in methods.items() if name in BY_HOOK} or None


def _step_s(candidate_id: str, pool: Pool) -> float:
    """Mean CPU-seconds per step of the finished trainings; 0 where none is."""
    measured = [one.score("step_s") for one in pool.contents.evaluations if one.task.candidate_id == candidate_id]
    known = [value for value in measured if value is not None]
    return math.fsum(known) / len(known) if known else 0.0

"""What kind of program a candidate is: the components it changes, and what a step of its training costs."""

from __future__ import annotations

import math
from functools import lru_cache

from arch_search.analysis.statistics import seed_values
from arch_search.errors import ProposalError
from arch_search.proposals import splice
from arch_search.proposals.registry import BY_HOOK
from arch_search.proposals.rendering import MIXER
from arch_search.selection.pool import Pool

FREE = "free code"
Cell = tuple[tuple[str, ...], int]


def cells_of(pool: Pool) -> dict[str, Cell]:
    """Cell of every program of the pool: changed components, cost of a step in half octaves of the reference's."""
    step_s = {
        key: math.fsum(seeds.values()) / len(seeds)
        for key, seeds in seed_values(pool.contents.evaluations, "step_s").items()
    }
    unit = step_s.get(pool.reference.id, 0.0)
    cells = {}
    for candidate in pool.ranked:
        cost = step_s.get(candidate.id, 0.0)
        octaves = round(2.0 * math.log2(cost / unit)) if cost > 0 and unit > 0 else 0
        cells[candidate.id] = family_of(candidate.program, pool.reference.program), octaves
    return cells


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

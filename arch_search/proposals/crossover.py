"""Crossover: some hooks of one measured program put into another, without a language model."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from arch_search.errors import ProposalError
from arch_search.proposals import hooks
from arch_search.proposals.assignment import Draft
from arch_search.proposals.difference import describe_difference
from arch_search.proposals.fingerprint import normal_form
from arch_search.proposals.registry import Toolbox
from arch_search.proposals.rendering import header, is_toolbox_program, render
from cognition_db.records import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """The parent's program with these hooks of the other one."""

    hooks: tuple[str, ...]
    program: str


def can_cross(parent: Candidate, other: Candidate, toolbox: Toolbox) -> bool:
    """Whether a crossing may be neither of the two: with one hook that differs it is always one of them."""
    if not all(is_toolbox_program(one.program, toolbox) for one in (parent, other)):
        return False
    return len(hooks.movable(parent.program, other.program)) > 1


def crossings(parent: Candidate, other: Candidate, known: Container[str], toolbox: Toolbox) -> Iterator[Crossing]:
    """Every way to put one or more hooks of the other, in which they differ, into the parent that gives something new.

    `known` are the normal forms of programs that there are; the two are left out in any case.
    """
    names = hooks.movable(parent.program, other.program) if can_cross(parent, other, toolbox) else ()
    two = {normal_form(one.program) for one in (parent, other)}
    for size in range(1, len(names) + 1):
        for chosen in combinations(names, size):
            program = hooks.with_hooks(parent.program, other.program, chosen, toolbox)
            form = normal_form(program)
            if form not in two and form not in known:
                yield Crossing(hooks=chosen, program=program)


def cross(
    parent: Candidate, other: Candidate, known: Container[str], rng: np.random.Generator, toolbox: Toolbox
) -> Draft:
    """One of the crossings. Raises ProposalError where there is none."""
    possible = list(crossings(parent, other, known, toolbox))
    if not possible:
        raise ProposalError(
            f"parents {parent.id} and {other.id} have no crossing that is new; "
            "it takes two programs built on the toolbox that differ in two or more hooks"
        )
    drawn = possible[int(rng.integers(len(possible)))]
    change = describe_difference(parent.program, drawn.program)
    text = header(origin=f"Parent {parent.id} with hooks of {other.id}.", change=change)
    return Draft(
        program=render(drawn.program, text, toolbox),
        class_name=parent.class_name,
        motivation=change,
        method="+".join(drawn.hooks),
    )

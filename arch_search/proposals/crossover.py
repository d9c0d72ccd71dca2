"""Crossover: some hooks of one measured program put into another, without a language model."""

from __future__ import annotations

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


def can_cross(parent: Candidate, other: Candidate, toolbox: Toolbox) -> bool:
    """Whether a crossing may be neither of the two: with one hook that differs it is always one of them."""
    if not all(is_toolbox_program(one.program, toolbox) for one in (parent, other)):
        return False
    return len(hooks.movable(parent.program, other.program)) > 1


def cross(
    parent: Candidate, other: Candidate, reference: Candidate, rng: np.random.Generator, toolbox: Toolbox
) -> Draft:
    """The parent with one or more hooks of the other, in which they differ.

    Raises ProposalError where every crossing is one of the two, or the reference.
    """
    names = hooks.movable(parent.program, other.program) if can_cross(parent, other, toolbox) else ()
    choices = [chosen for size in range(1, len(names) + 1) for chosen in combinations(names, size)]
    known = {normal_form(one.program) for one in (parent, other, reference)}
    for index in rng.permutation(len(choices)):
        program = hooks.with_hooks(parent.program, other.program, choices[int(index)], toolbox)
        if normal_form(program) in known:
            continue
        change = describe_difference(parent.program, program)
        text = header(origin=f"Parent {parent.id} with hooks of {other.id}.", change=change)
        return Draft(
            program=render(program, text, toolbox),
            class_name=parent.class_name,
            motivation=change,
            method="+".join(choices[int(index)]),
        )
    raise ProposalError(
        f"parents {parent.id} and {other.id} have no crossing that is new; "
        "it takes two programs built on the toolbox that differ in two or more hooks"
    )

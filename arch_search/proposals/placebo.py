"""The placebo arm: the reference again, with other words and other initial weights; what noise alone can reach."""

from __future__ import annotations

import ast

from arch_search.errors import ProposalError
from arch_search.proposals import splice
from arch_search.proposals.assignment import Draft
from arch_search.proposals.rendering import header, with_header
from cognition_db.records import Candidate


def placebo(reference: Candidate, *, generation: int, slot: int) -> Draft:
    """A program that computes what the reference computes; only its text and its draw of initial weights differ.

    Every placebo of a campaign makes another draw: its constructor first takes a number of random values that belongs
    to (generation, slot). Raises ProposalError where the reference has no constructor.
    """
    init = splice.methods(reference.program, reference.class_name).get("__init__")
    if init is None:
        raise ProposalError(f"reference {reference.id} has no __init__ that could draw other weights")
    first = next(one for one in init.body if not _is_docstring(one))
    draws = generation * 1000 + slot + 1
    lines = splice.lines_of(reference.program)
    indent = " " * first.col_offset
    lines.insert(
        first.lineno - 1,
        f"{indent}# a placebo: {draws} random values are taken first, so the initial weights are another draw\n"
        f"{indent}torch.rand({draws})\n",
    )
    origin = f"Placebo {slot} of generation {generation}: {reference.name} ({reference.id}) again."
    change = "nothing but the draw of the initial weights"
    return Draft(
        program=with_header("".join(lines), header(origin=origin, change=change)),
        class_name=reference.class_name,
        motivation=change,
    )


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)

"""What bans and pins mean for programs: who may be a parent, what may change, whether a new program is allowed."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from arch_search.generation import SlotPlan
from arch_search.proposals import rungs
from arch_search.proposals.assignment import Draft
from arch_search.proposals.registry import BUILT_IN, MIX, Toolbox
from arch_search.proposals.rendering import is_toolbox_program
from arch_search.selection.families import FREE, family_of
from arch_search.selection.pool import ParentChoice
from arch_search.steering import Ban, Gift, Pin, Steering
from arch_search.syntax import syntax_tree
from cognition_db.records import Candidate, Rung, Verdict

# rungs that rework programs of the search
REWORKING: frozenset[Rung] = frozenset({"crossover", "simplify"})


def excluded(steering: Steering, candidates: Sequence[Candidate], reference: Candidate) -> frozenset[str]:
    """Candidates that may be no parents and are not shown: banned ones, what came of them, and banned families."""
    found = {ban.subject for ban in steering.bans if ban.of == "candidate"}
    for one in sorted(candidates, key=lambda one: (one.generation, one.slot)):  # parents before their children
        if one.id != reference.id and (found & set(one.parents) or banned_change(steering, one.program, reference)):
            found.add(one.id)
    return frozenset(found)


def banned_change(steering: Steering, program: str, reference: Candidate) -> Ban | None:
    """The ban that a program falls under by the components it changes."""
    family = family_of(program, reference.program) if steering.banned_families else ()
    return next((ban for ban in steering.bans if ban.of == "family" and ban.subject in family), None)


def has_place(rung: Rung, parent: Candidate, reference: Candidate, banned: frozenset[str], toolbox: Toolbox) -> bool:
    """Whether a proposal on this rung has something to change in the parent that is of no banned family."""
    if rung == "mutation":
        # free code has few random changes that mean something; it is changed where there is nothing else
        hooks = rungs.editable_methods(parent.program, toolbox)
        is_free = FREE not in banned and not rungs.editable_methods(reference.program, BUILT_IN)
        return bool(set(hooks) - banned) if hooks else is_free
    if rung in REWORKING:
        return parent.arm != "baseline" and is_toolbox_program(parent.program, toolbox)
    if rung not in rungs.rungs_for(parent, toolbox):
        return False
    if rung in ("grammar_edit", "method_splice"):
        return bool(set(rungs.methods_for(rung, parent, toolbox)) - banned)
    return (FREE if rung == "whole_module" else MIX.name) not in banned


def verdict_on(program: str, steering: Steering, reference: Candidate) -> Verdict | None:
    """The refusal of a program that changes what is banned by hand; None for all others."""
    ban = banned_change(steering, program, reference)
    if ban is None:
        return None
    reason = f"it changes {ban.subject}, a family that is banned by hand (request {ban.request})"
    return Verdict(check="steering", outcome="failed", reason=reason, refuses=True)


def hand_draft(program: Gift) -> Draft:
    """A program by hand; what its author says of it is the first line of its docstring."""
    said = (ast.get_docstring(syntax_tree(program.text)) or "").strip().partition("\n")[0]
    return Draft(program=program.text, class_name=program.class_name, motivation=said or "a program by hand")


def pinned(
    choice: ParentChoice,
    plan: SlotPlan,
    attempt: int,
    steering: Steering,
    *,
    candidates: Sequence[Candidate],
    reference: Candidate,
    toolbox: Toolbox,
) -> tuple[ParentChoice, Pin | None]:
    """The pinned parent and the pin, where one holds for this try and its rung can change it."""
    pin = steering.pin_of(plan.slot, attempt)
    parent = next((one for one in candidates if pin and one.id == pin.candidate), None)
    if parent is None or not has_place(plan.drawn_rung, parent, reference, steering.banned_families, toolbox):
        return choice, None
    others = tuple(one for one in choice.references if one.id != parent.id)
    return ParentChoice(parent=parent, references=others), pin

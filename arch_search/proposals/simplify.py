"""Simplify: one component of a measured program taken away, without a language model."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

import numpy as np

from arch_search.errors import ProposalError
from arch_search.proposals import hooks
from arch_search.proposals.assignment import Draft
from arch_search.proposals.difference import describe_difference
from arch_search.proposals.fingerprint import normal_form
from arch_search.proposals.registry import MIX, Toolbox
from arch_search.proposals.rendering import header, is_toolbox_program, render
from cognition_db.records import Candidate


def simplify(parent: Candidate, reference: Candidate, rng: np.random.Generator, toolbox: Toolbox) -> Draft:
    """The parent with one hook back in the reference's form, or without one term, factor or line of a hook.

    Raises ProposalError where nothing can be taken away, or nothing but what gives the reference.
    """
    if not is_toolbox_program(parent.program, toolbox):
        raise ProposalError(f"parent {parent.id} is not built on the toolbox, so its components are not known")
    known = {normal_form(parent.program), normal_form(reference.program)}
    smaller = list(_smaller(parent.program, reference.program, toolbox))
    for index in rng.permutation(len(smaller)):
        method, text = smaller[int(index)]
        program = hooks.rendered(text, toolbox)
        if normal_form(program) in known:
            continue
        change = describe_difference(parent.program, program)
        origin = header(origin=f"Parent {parent.id} without one of its components.", change=change)
        return Draft(
            program=render(program, origin, toolbox), class_name=parent.class_name, motivation=change, method=method
        )
    raise ProposalError(f"parent {parent.id} has no component to take away that would not leave the reference")


def _smaller(program: str, reference: str, toolbox: Toolbox) -> Iterator[tuple[str, str]]:
    """Every smaller program, not rendered yet, with the hook that it changes."""
    for name in hooks.movable(program, reference):
        yield name, hooks.with_hooks(program, reference, (name,), toolbox)
    for name, node in hooks.hooks_of(program).items():
        vectors = _vectors(node, toolbox)
        for place, one in enumerate(ast.walk(node)):
            for side in _kept_sides(one, vectors, toolbox):
                yield name, hooks.with_hook(program, _with_side(node, place, side))
        if name == MIX.name:
            for line in _lines(node):
                without = _without_line(node, line, vectors, toolbox)
                if without is not None:
                    yield name, hooks.with_hook(program, without)


def _kept_sides(node: ast.AST, vectors: frozenset[str], toolbox: Toolbox) -> tuple[str, ...]:
    """Sides of a sum, difference or product that can stand for the whole: of the same kind, and neither is a number."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, (ast.Add, ast.Sub, ast.Mult)):
        return ()
    if _is_number(node.left) or _is_number(node.right):
        return ()
    sides = ("left",) if isinstance(node.op, ast.Sub) else ("left", "right")
    whole = _is_vector(node, vectors, toolbox)
    return tuple(side for side in sides if _is_vector(getattr(node, side), vectors, toolbox) == whole)


def _with_side(node: ast.FunctionDef, place: int, side: str) -> ast.FunctionDef:
    """A copy in which the operation at this place of the walk is replaced by one of its sides."""
    copied = copy.deepcopy(node)
    whole = list(ast.walk(copied))[place]
    assert isinstance(whole, ast.BinOp)
    hooks.replace(copied, whole, getattr(whole, side))
    return copied


def _without_line(
    node: ast.FunctionDef, name: str, vectors: frozenset[str], toolbox: Toolbox
) -> ast.FunctionDef | None:
    """A copy in which the first value of its kind that a line reads stands for what it names; None where there is none.

    A line that reads a memory stays: its query is no simpler form of what the memory gives.
    """
    copied = copy.deepcopy(node)
    line = _lines(copied)[name]
    if any(_reads_memory(one, toolbox) for one in ast.walk(line.value)):
        return None
    kind, values = _is_vector(line.value, vectors, toolbox), {*_arguments(node), *_lines(node)}
    read = [one.id for one in ast.walk(line.value) if isinstance(one, ast.Name) and one.id in values]
    same = [one for one in read if (one in vectors) == kind]
    if not same or same[0] == name:
        return None
    copied.body.remove(line)
    for one in ast.walk(copied):
        if isinstance(one, ast.Name) and one.id == name:
            one.id = same[0]
    return copied


def _reads_memory(node: ast.AST, toolbox: Toolbox) -> bool:
    primitive = toolbox.called(ast.unparse(node.func)) if isinstance(node, ast.Call) else None
    return primitive is not None and primitive.is_memory


def _lines(node: ast.FunctionDef) -> dict[str, ast.Assign]:
    """Assignments to one name that is assigned once, by that name."""
    found = [one for one in node.body if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name)]
    names = [one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)]
    by_name = {ast.unparse(one.targets[0]): one for one in found}
    return {name: line for name, line in by_name.items() if names.count(name) == 1}


def _arguments(node: ast.FunctionDef) -> set[str]:
    """Arguments that are vectors: x has a layout of its own."""
    return {argument.arg for argument in node.args.args} - {"self", "x"}


def _vectors(node: ast.FunctionDef, toolbox: Toolbox) -> frozenset[str]:
    """Names of the arguments and lines that hold a vector per token."""
    vectors = frozenset(_arguments(node))
    for name, line in _lines(node).items():
        if _is_vector(line.value, vectors, toolbox):
            vectors |= {name}
    return vectors


def _is_vector(node: ast.AST, vectors: frozenset[str], toolbox: Toolbox) -> bool:
    """Whether an expression is a vector per token; a scalar, a number and a learned constant are not."""
    if isinstance(node, ast.Name):
        return node.id in vectors
    if isinstance(node, ast.Subscript):
        return False
    if isinstance(node, ast.Call):
        primitive = toolbox.called(ast.unparse(node.func))
        if primitive is None:
            return isinstance(node.func, ast.Name) and any(_is_vector(one, vectors, toolbox) for one in node.args)
        if {"vector", "scalar"} <= {signature.gives for signature in primitive.signatures}:
            return any(_is_vector(one, vectors, toolbox) for one in node.args)
        return primitive.signatures[0].gives == "vector"
    return any(_is_vector(one, vectors, toolbox) for one in ast.iter_child_nodes(node))


def _is_number(node: ast.expr) -> bool:
    return not any(isinstance(one, (ast.Name, ast.Call)) for one in ast.walk(node))

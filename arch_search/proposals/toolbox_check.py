"""Checks of a toolbox function before it is built: only known calls, with the right number of arguments."""

from __future__ import annotations

import ast

from arch_search.errors import ProposalError
from arch_search.proposals import splice
from arch_search.proposals.registry import Toolbox
from arch_search.proposals.rendering import MIXER


def check(node: ast.FunctionDef, parent_program: str, toolbox: Toolbox) -> None:
    """Raises ProposalError at the first thing that the toolbox or the parent's mixer does not have."""
    known_methods = set(splice.methods(parent_program, MIXER))
    if not any(isinstance(one, ast.Return) and one.value is not None for one in ast.walk(node)):
        raise ProposalError(f"{node.name} returns nothing")
    for call in (one for one in ast.walk(node) if isinstance(one, ast.Call)):
        _check_call(call, toolbox)
    attributes = {ast.unparse(one) for one in ast.walk(node) if isinstance(one, ast.Attribute)}
    for attribute in sorted(name for name in attributes if name.startswith("self.") and name != "self.p"):
        parts = attribute.split(".")
        if parts[1] not in known_methods | {"p"}:
            raise ProposalError(f"{node.name} uses {attribute}, which the mixer does not have")
        if parts[1] == "p" and toolbox.called(attribute) is None:
            raise ProposalError(f"{node.name} uses {attribute}, which is no learned quantity of the toolbox")


def _check_call(call: ast.Call, toolbox: Toolbox) -> None:
    name = ast.unparse(call.func)
    primitive = toolbox.called(name)
    if primitive is None or primitive.home == "torch" or any(isinstance(one, ast.Starred) for one in call.args):
        return
    expected = len(primitive.signatures[0].takes)
    given = len(call.args) + len(call.keywords)
    if given != expected:
        raise ProposalError(f"{name} takes {expected} arguments, the reply gives {given}")

"""What a program changes against its parent, in words made from the two syntax trees and from nothing else."""

from __future__ import annotations

import ast
import copy

from arch_search.proposals.rendering import MIXER, toolbox_names
from arch_search.proposals.splice import parse, without_words

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_LONGEST = 200  # characters of one shown expression


def describe_difference(parent_program: str, program: str) -> str:
    """One line per changed, new or missing definition; raises ProposalError if either program does not parse."""
    before, after = _definitions(parent_program), _definitions(program)
    parts = []
    for name, node in after.items():
        if name not in before:
            parts.append(f"new {_short(name)}{_result(node)}")
        elif _text(node) != _text(before[name]):
            parts.append(_changed(_short(name), before[name], node))
    parts += [f"without {_short(name)}" for name in before if name not in after]
    return "; ".join(parts) or "nothing but wording"


def changed_definitions(parent_program: str, program: str) -> str:
    """Source of the definitions that are new or changed, without comments; ProposalError if either does not parse."""
    before, after = _definitions(parent_program), _definitions(without_words(program))
    changed = [node for name, node in after.items() if name not in before or _text(node) != _text(before[name])]
    return "\n\n".join(ast.unparse(node) for node in changed)


def definitions(tree: ast.Module) -> dict[str, Definition]:
    """Functions and members of classes by qualified name, in the order of the text; toolbox pieces are left out."""
    found: dict[str, Definition] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}": one for one in node.body if isinstance(one, Definition)}
    return {name: node for name, node in found.items() if name.split(".")[0] not in toolbox_names()}


def _definitions(program: str) -> dict[str, ast.FunctionDef]:
    """Functions and methods alone."""
    found = definitions(parse(program))
    return {name: node for name, node in found.items() if isinstance(node, ast.FunctionDef)}


def _changed(name: str, before: ast.FunctionDef, after: ast.FunctionDef) -> str:
    old, new = _statements(before), _statements(after)
    gone = [text for text in old if text not in new]
    come = [text for text in new if text not in old]
    if gone and come:
        return f"{name}: {_shown(gone)} became {_shown(come)}"
    if come:
        return f"{name}: added {_shown(come)}"
    return f"{name}: removed {_shown(gone)}" if gone else f"{name}: other order"


def _statements(node: ast.FunctionDef) -> list[str]:
    """The statements of a function, the arguments first; docstrings do not count."""
    body = [one for one in node.body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    defaults = [f"arguments {ast.unparse(_bare(node.args))}"]
    return [*defaults, *(ast.unparse(one) for one in body)]


def _bare(arguments: ast.arguments) -> ast.arguments:
    """The arguments without annotations."""
    copied = copy.deepcopy(arguments)
    for node in ast.walk(copied):
        if isinstance(node, ast.arg):
            node.annotation = None
    return copied


def _text(node: ast.FunctionDef) -> str:
    return "\n".join(_statements(node))


def _result(node: ast.FunctionDef) -> str:
    returns = [one for one in node.body if isinstance(one, ast.Return) and one.value is not None]
    return f": {_shown([ast.unparse(returns[-1])])}" if returns else ""


def _shown(statements: list[str]) -> str:
    text = " ".join("; ".join(one.removeprefix("return ") for one in statements).split())
    return f"`{text if len(text) <= _LONGEST else text[: _LONGEST - 3] + '...'}`"


def _short(name: str) -> str:
    return name.removeprefix(f"{MIXER}.")

"""Textual identity of programs: what is left when names, comments, docstrings and annotations do not count."""

from __future__ import annotations

import ast

from arch_search.errors import ProposalError
from arch_search.proposals.registry import PRIMITIVES
from arch_search.proposals.splice import drop_words, parse

_LEARNED = frozenset(primitive.name for primitive in PRIMITIVES if primitive.home == "learned")


def normal_form(program: str) -> str:
    """Text that is equal for two programs that differ only in wording; raises ProposalError if it does not parse.

    Names that the program itself gives (functions, arguments, variables, attributes of self, learned quantities) are
    numbered in order of first appearance; names of libraries stay. Imports are sorted.
    """
    tree = parse(program)
    drop_words(tree)
    tree = _Renamer(tree).visit(tree)
    imports = sorted(ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))
    rest = [ast.unparse(node) for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    return "\n".join([*imports, *rest])


def normal_form_or_empty(program: str) -> str:
    """The normal form, or nothing where the program does not parse: the static check names what is wrong with it."""
    try:
        return normal_form(program)
    except ProposalError:
        return ""


def _methods(tree: ast.Module) -> frozenset[int]:
    """Identity of the function nodes that are methods; their names are attributes, not variables."""
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return frozenset(id(one) for node in classes for one in node.body if isinstance(one, ast.FunctionDef))


def _own_names(tree: ast.Module) -> frozenset[str]:
    """Names that the program binds itself, imports left out; attributes are spelled with a dot in front.

    `self`, `forward` and dunder names stay as they are.
    """
    found: set[str] = set()
    methods = _methods(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(f".{node.name}" if id(node) in methods else node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(f".{node.attr}")
    return frozenset(name for name in found if not name.startswith(("__", ".__"))) - {"self", ".forward"}


class _Renamer(ast.NodeTransformer):
    """Numbers own names by first appearance, in one table for the whole module."""

    def __init__(self, tree: ast.Module) -> None:
        self._own = _own_names(tree)
        self._methods = _methods(tree)
        self._table: dict[str, str] = {}

    def _of(self, name: str) -> str:
        return self._table.setdefault(name, f"n{len(self._table)}")

    def _name(self, name: str) -> str:
        return self._of(name) if name in self._own else name

    def _attribute(self, name: str) -> str:
        return self._of(f".{name}") if f".{name}" in self._own else name

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self._attribute(node.name) if id(node) in self._methods else self._name(node.name)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self._name(node.name)
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self._name(node.arg)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._name(node.id)
        return node

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        node.arg = None if node.arg is None else self._name(node.arg)
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            node.attr = self._attribute(node.attr)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        kind = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if kind in _LEARNED and node.args and isinstance(node.args[0], ast.Constant):
            node.args[0] = ast.Constant(self._of(f"{kind}:{node.args[0].value!r}"))
        return self.generic_visit(node)

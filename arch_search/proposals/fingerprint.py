"""Textual identity of programs: what is left when names, comments, docstrings and annotations do not count."""

from __future__ import annotations

import ast

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
    tree = _Renamer(_own_names(tree)).visit(tree)
    imports = sorted(ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))
    rest = [ast.unparse(node) for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    return "\n".join([*imports, *rest])


def _own_names(tree: ast.Module) -> frozenset[str]:
    """Names that the program binds itself, imports left out; `self`, `forward` and dunder names stay as they are."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return frozenset(name for name in found if not name.startswith("__")) - {"self", "forward"}


class _Renamer(ast.NodeTransformer):
    """Numbers own names by first appearance, in one table for the whole module."""

    def __init__(self, own: frozenset[str]) -> None:
        self._own = own
        self._table: dict[str, str] = {}

    def _of(self, name: str, prefix: str = "") -> str:
        return self._table.setdefault(prefix + name, f"n{len(self._table)}")

    def _known(self, name: str) -> str:
        return self._of(name) if name in self._own else name

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self._known(node.name)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self._known(node.name)
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self._known(node.arg)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._known(node.id)
        return node

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        node.arg = None if node.arg is None else self._known(node.arg)
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            node.attr = self._known(node.attr)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        kind = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if kind in _LEARNED and node.args and isinstance(node.args[0], ast.Constant):
            node.args[0] = ast.Constant(self._of(str(node.args[0].value), prefix=f"{kind}:"))
        return self.generic_visit(node)

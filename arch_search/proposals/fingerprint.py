"""Textual identity of programs: what is left when names, wording, order and the spelling of constants do not count."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from arch_search.errors import ProposalError
from arch_search.proposals.canonical import Unordered, canonical
from arch_search.proposals.own_names import Own, mark_own_names
from arch_search.proposals.rendering import LEARNED, toolbox_sources
from arch_search.proposals.splice import drop_words, parse
from cognition_db.records import sha256_text

_GROWN = re.compile(r"found_[0-9a-f]{8}")


@lru_cache(maxsize=16_384)
def normal_form(program: str) -> str:
    """Text that is equal for two programs that differ only in wording; raises ProposalError where there is none.

    Besides what `canonical` puts into one form, the names that the program itself gives are numbered, and pieces that
    were copied from the toolbox are left out: a changed piece stays.
    """
    tree = parse(program)
    try:
        drop_words(tree)
        tree.body = [node for node in tree.body if not _is_from_toolbox(node)]
        return _form(tree)
    except RecursionError:
        raise ProposalError("the program is nested too deeply to be compared; write it flatter") from None


def normal_form_or_empty(program: str) -> str:
    """The normal form, or nothing where the program does not parse: the static check names what is wrong with it."""
    try:
        return normal_form(program)
    except ProposalError:
        return ""


def _form(tree: ast.Module) -> str:
    mark_own_names(canonical(tree))
    table: dict[str, str] = {}
    _Numbering(tree, table).number(tree)
    return _text(tree, table)


def _is_from_toolbox(node: ast.stmt) -> bool:
    functions, learned = toolbox_sources()
    if isinstance(node, ast.FunctionDef) and _GROWN.fullmatch(node.name):
        # the name of what grew follows from its text, so it stands for it
        return node.name == grown_name(ast.unparse(node))
    if isinstance(node, ast.FunctionDef):
        return node.name in functions and definition_form(ast.unparse(node)) == definition_form(functions[node.name])
    if not isinstance(node, ast.ClassDef) or node.name != LEARNED:
        return False
    whole = _without_words(learned).body[0]
    assert isinstance(whole, ast.ClassDef), "the source of Learned is one class"
    # a rendered program keeps the methods that it uses
    kept = {ast.dump(one) for one in node.body}
    return _head(node) == _head(whole) and len(kept) == len(node.body) and kept <= {ast.dump(one) for one in whole.body}


@lru_cache(maxsize=1024)
def grown_name(definition: str) -> str:
    """The name of a primitive that grew: it follows from the function and from no word of a model."""
    node = _without_words(definition).body[0]
    assert isinstance(node, ast.FunctionDef), "a primitive is one function"
    node.name = "found"
    return f"found_{sha256_text(ast.unparse(ast.fix_missing_locations(node)))[:8]}"


@lru_cache(maxsize=1024)
def definition_form(definition: str) -> str:
    """Text that is equal for two functions that differ only in names, wording and the order of what is unordered."""
    return _form(_without_words(definition))


def _without_words(text: str) -> ast.Module:
    tree = parse(text)
    drop_words(tree)
    return tree


def _head(node: ast.ClassDef) -> str:
    return ast.dump(ast.ClassDef(node.name, node.bases, node.keywords, [], node.decorator_list))


def _text(node: object, table: Mapping[str, str]) -> str:
    """One text per tree, whatever the order of what is unordered; names that are not in the table all look alike."""
    if isinstance(node, Own):
        return table.get(node, "_")
    if isinstance(node, Unordered):
        return f"{node.what}{{{' '.join(sorted(_text(one, table) for one in node.members))}}}"
    if isinstance(node, ast.AST):
        fields = (_text(getattr(node, name, None), table) for name in node._fields if name not in ("ctx", "kind"))
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(_text(one, table) for one in node)}]"
    return repr(node)


class _Numbering:
    """Numbers own names by first appearance, in an order that follows from the whole tree and not from its writing."""

    def __init__(self, tree: ast.Module, table: dict[str, str]) -> None:
        self._tree = tree
        self._table = table

    def number(self, node: object) -> None:
        if isinstance(node, Own):
            self._table.setdefault(node, f"{node.mark}n{len(self._table)}")
        elif isinstance(node, Unordered):
            for member in self._in_order(node.members):
                self.number(member)
        elif isinstance(node, ast.AST):
            for name in node._fields:
                self.number(getattr(node, name, None))
        elif isinstance(node, list):
            for one in node:
                self.number(one)

    def _in_order(self, members: list[ast.AST]) -> list[ast.AST]:
        """By text; where names not yet numbered make two look alike, by where else in the tree these names stand."""
        texts = [_text(member, self._table) for member in members]
        keys = []
        for member, text in zip(members, texts, strict=True):
            new = {name: "this" for name in _own_names(member) if name not in self._table}
            keys.append((text, _text(self._tree, self._table | new) if new and texts.count(text) > 1 else ""))
        order = sorted(range(len(members)), key=keys.__getitem__)
        return [members[index] for index in order]


def _own_names(node: ast.AST) -> Iterator[Own]:
    for one in ast.walk(node):
        yield from (value for _, value in ast.iter_fields(one) if isinstance(value, Own))

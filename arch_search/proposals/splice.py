"""Changing program text by its syntax tree: read, replace, add and remove methods; the rest keeps its formatting."""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
from collections.abc import Iterator
from functools import lru_cache

from arch_search.errors import ProposalError
from arch_search.syntax import syntax_tree

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_NAMES_OF_MODULES = frozenset({"__name__", "__file__", "__doc__"})


def parse(text: str, what: str = "the program") -> ast.Module:
    """The syntax tree; raises ProposalError with the line that does not parse."""
    try:
        return syntax_tree(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = f" at line {error.lineno}" if isinstance(error, SyntaxError) else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ProposalError(f"{what} does not parse{place}: {reason}") from None


def lines_of(text: str) -> list[str]:
    """The lines as the parser counts them, line ends kept; str.splitlines also breaks at form feeds and others."""
    return _LINE.findall(text)


def class_node(program: str, class_name: str) -> ast.ClassDef:
    """The named class at the top of the program, not to be changed; raises ProposalError where there is none."""
    for node in _kept_tree(program).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return node
    raise ProposalError(f"the program has no class {class_name}")


def methods(program: str, class_name: str) -> dict[str, ast.FunctionDef]:
    """Methods of the named class, in their order."""
    return {node.name: node for node in class_node(program, class_name).body if isinstance(node, ast.FunctionDef)}


def method_source(program: str, class_name: str, name: str) -> str:
    """Text of one method, dedented."""
    return source_of(program, methods(program, class_name)[name])


def source_of(program: str, node: ast.FunctionDef | ast.ClassDef) -> str:
    """Text of a definition with its decorators, dedented, ending in a line break."""
    first, last = _span(node)
    return textwrap.dedent("".join(lines_of(program)[first - 1 : last])).rstrip() + "\n"


def put_method(program: str, class_name: str, name: str, text: str) -> str:
    """The program with method `name` replaced by `text` (a dedented def), or with `text` as a new last method."""
    lines = lines_of(program)
    node = class_node(program, class_name)
    indent = " " * node.body[0].col_offset
    block = textwrap.indent(text.rstrip() + "\n", indent)
    old = methods(program, class_name).get(name)
    if old is None:
        end = node.end_lineno or len(lines)
        lines[end - 1] = lines[end - 1].rstrip("\n") + "\n"
        lines.insert(end, "\n" + block)
    else:
        first, last = _span(old)
        lines[first - 1 : last] = [block]
    return "".join(lines)


def drop_method(program: str, class_name: str, name: str) -> str:
    """The program without the named method."""
    lines = lines_of(program)
    first, last = _span(methods(program, class_name)[name])
    while first > 1 and not lines[first - 2].strip():
        first -= 1
    del lines[first - 1 : last]
    return "".join(lines)


def add_to_init(program: str, class_name: str, statements: str) -> str:
    """The program with the dedented `statements` in the constructor: at its end, or before it first calls the module.

    A constructor of the toolbox ends in a dry call, which already needs the new attributes.
    """
    init = methods(program, class_name).get("__init__")
    if init is None:
        raise ProposalError(f"class {class_name} has no __init__ that new attributes could be added to")
    lines = lines_of(program)
    dry = next((one for one in init.body if _calls_self(one)), None)
    at = dry.lineno - 1 if dry else init.end_lineno or len(lines)
    lines.insert(at, textwrap.indent(statements, " " * init.body[0].col_offset))
    return "".join(lines)


def without_words(program: str) -> str:
    """The program without docstrings, comments and annotations: what a prompt needs of it, in fewer tokens."""
    tree = parse(program)
    drop_words(tree)
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def drop_words(tree: ast.Module) -> None:
    """Docstrings, bare strings and annotations of functions go away, in place."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [one for one in node.body if not _is_words(one)] or [ast.Pass()]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None


def undefined_names(program: str) -> tuple[str, ...]:
    """Names that are read somewhere and bound nowhere in the program, sorted; a cheap check without scopes."""
    read, bound = set(), set(dir(builtins)) | _NAMES_OF_MODULES
    for node in ast.walk(parse(program)):
        bound.update(_bound_by(node))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            read.add(node.id)
    return tuple(sorted(read - bound))


@lru_cache(maxsize=32)
def _kept_tree(program: str) -> ast.Module:
    """One tree per text for those who only read it: a splice asks for the same text several times."""
    return parse(program)


def is_of_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def _calls_self(statement: ast.stmt) -> bool:
    calls = (node for node in ast.walk(statement) if isinstance(node, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == "self" for call in calls)


def _is_words(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _bound_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name


def _span(node: ast.FunctionDef | ast.ClassDef) -> tuple[int, int]:
    """First and last line, decorators included, counted from 1."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return first, node.end_lineno or node.lineno

"""From parts to one readable, self-contained program: header, the toolbox pieces in use, the mixer class."""

from __future__ import annotations

import ast
import re
import textwrap
from functools import cache, lru_cache
from importlib import resources

from arch_search.proposals import splice
from arch_search.proposals.registry import MIX, PRIMITIVES, Hook, Toolbox
from arch_search.syntax import syntax_tree

WIDTH = 120
MIXER = "DeltaNet"
_NAME_IN_QUOTES = re.compile(r"'([A-Za-z0-9_]*)'")
LEARNED = "Learned"
_LAYOUT = "Hooks work on vectors (B, H, T, d) and scalars (B, H, T, 1); x is the input (B, T, D)."
_KINDS = tuple(primitive.name for primitive in PRIMITIVES if primitive.home == "learned")


@lru_cache(maxsize=256)
def is_toolbox_program(program: str, toolbox: Toolbox) -> bool:
    """Whether the program is exactly what rendering gives, so that its hooks can be rewritten by name.

    A whole module that came from a toolbox program but changed one of its pieces, or added an import or a helper, is
    not: rendering a child of it would lose that.
    """
    classes = {node.name for node in splice.parse(program).body if isinstance(node, ast.ClassDef)}
    if not {MIXER, LEARNED} <= classes:
        return False
    mix = splice.methods(program, MIXER).get(MIX.name)
    if mix is None or [argument.arg for argument in mix.args.args] != ["self", *MIX.arguments]:
        return False
    return splice.without_words(render(program, "", toolbox)) == splice.without_words(program)


def toolbox_names() -> frozenset[str]:
    """Top-level names of a rendered program that come from the built-in toolbox."""
    return frozenset({*toolbox_sources()[0], LEARNED})


def function_text(hook: Hook, body: list[ast.stmt]) -> str:
    """A hook as text in the one formatting that rendered programs use."""
    lines = [hook.signature]
    for statement in body:
        text = ast.unparse(statement)
        if len(text) + 8 > WIDTH and isinstance(statement, (ast.Return, ast.Assign)) and statement.value is not None:
            text = _folded(statement, statement.value)
        lines.append(textwrap.indent(_NAME_IN_QUOTES.sub(r'"\1"', text), "    "))
    return "\n".join(lines) + "\n"


def header(*, origin: str, change: str, words: str = "") -> str:
    """The docstring of a rendered program: where it comes from, what differs, and the writer's own words."""
    parts = [origin, f"Change: {change}"]
    if words:
        parts.append(f"The writer's words, not checked: {words}")
    wrapped = [textwrap.fill(_plain(part), WIDTH - 4, break_long_words=False) for part in parts]
    return f"{wrapped[0]}\n\n" + "\n".join(wrapped[1:])


def with_header(program: str, text: str) -> str:
    """The program with `text` as its module docstring, instead of the one it had."""
    tree = splice.parse(program)
    lines = splice.lines_of(program)
    if ast.get_docstring(tree, clean=False) is not None:
        first = tree.body[0]
        lines[first.lineno - 1 : first.end_lineno] = []
    rest = "".join(lines).lstrip("\n")
    return f'"""{text}\n"""\n\n{rest.rstrip()}\n'


def render(program: str, text: str, toolbox: Toolbox) -> str:
    """A toolbox program with header `text` and exactly the toolbox pieces that its mixer uses."""
    program = _without_unused_hooks(program)
    mixer = splice.source_of(program, splice.class_node(program, MIXER))
    return f'"""{text}\n{_LAYOUT}\n"""\n\n{_imports()}\n\n\n{_pieces(mixer, toolbox)}\n\n{mixer}'


def live_lines(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements of a straight-line body without assignments that nothing after them reads."""
    needed: set[str] = set()
    kept: list[ast.stmt] = []
    for statement in reversed(body):
        is_plain = isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
        if is_plain and not needed & {statement.targets[0].id}:  # type: ignore[attr-defined]
            continue
        needed |= {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
        kept.append(statement)
    return kept[::-1]


def _without_unused_hooks(program: str) -> str:
    """Hooks that no method calls any more are left out; `forward` and `__init__` stay."""
    while True:
        defined = splice.methods(program, MIXER)
        called = {
            node.attr
            for name, method in defined.items()
            for node in ast.walk(method)
            if isinstance(node, ast.Attribute) and node.attr != name
        }
        unused = [name for name in defined if name not in called and name != "forward" and not name.startswith("__")]
        if not unused:
            return program
        program = splice.drop_method(program, MIXER, unused[0])


def _pieces(mixer: str, toolbox: Toolbox) -> str:
    """Source of every toolbox function the mixer needs, and of Learned with the kinds it uses."""
    built_in, learned = toolbox_sources()
    functions = built_in | {one.primitive.name: one.source for one in toolbox.grown}
    attributes = {node.attr for node in ast.walk(syntax_tree(mixer)) if isinstance(node, ast.Attribute)}
    needed = {node.id for node in ast.walk(syntax_tree(mixer)) if isinstance(node, ast.Name)}
    while True:
        reached = {
            node.id
            for name in needed & functions.keys()
            for node in ast.walk(syntax_tree(functions[name]))
            if isinstance(node, ast.Name)
        }
        if reached <= needed:
            break
        needed |= reached
    for kind in _KINDS:
        if kind not in attributes:
            learned = splice.drop_method(learned, LEARNED, kind)
    texts = [functions[name] for name in functions if name in needed]
    return "\n\n".join([*texts, learned])


@cache
def toolbox_sources() -> tuple[dict[str, str], str]:
    """The functions of models/toolbox by name, and the class Learned, as text; what grew brings its own source."""
    folder = resources.files("arch_search.models").joinpath("toolbox")
    text = folder.joinpath("functions.py").read_text(encoding="utf-8")
    functions = {
        node.name: splice.source_of(text, node) for node in syntax_tree(text).body if isinstance(node, ast.FunctionDef)
    }
    text = folder.joinpath("learned.py").read_text(encoding="utf-8")
    return functions, splice.source_of(text, splice.class_node(text, LEARNED))


@cache
def _imports() -> str:
    """Import lines of every rendered program: those of the toolbox."""
    text = resources.files("arch_search.models").joinpath("toolbox", "learned.py").read_text(encoding="utf-8")
    nodes = [node for node in syntax_tree(text).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    lines = text.splitlines()
    return "\n".join(lines[nodes[0].lineno - 1 : nodes[-1].end_lineno])


def _folded(statement: ast.Return | ast.Assign, value: ast.expr) -> str:
    """A long statement over several lines, one term of its sum a line."""
    terms: list[str] = []
    while isinstance(value, ast.BinOp) and isinstance(value.op, (ast.Add, ast.Sub)):
        terms.append(f"{'+' if isinstance(value.op, ast.Add) else '-'} {ast.unparse(_bracketed(value.right))}")
        value = value.left
    if not terms:
        return ast.unparse(statement)
    start = "return" if isinstance(statement, ast.Return) else f"{ast.unparse(statement.targets[0])} ="
    body = "\n".join(f"    {term}" for term in [ast.unparse(value), *reversed(terms)])
    return f"{start} (\n{body}\n)"


def _bracketed(term: ast.expr) -> ast.expr:
    """The right side of a minus or plus keeps its brackets when it is itself a sum."""
    if isinstance(term, ast.BinOp) and isinstance(term.op, (ast.Add, ast.Sub)):
        return ast.Name(id=f"({ast.unparse(term)})", ctx=ast.Load())
    return term


def _plain(text: str) -> str:
    """Text that cannot end or escape a docstring."""
    return " ".join(text.replace("\\", "/").replace('"', "'").split())

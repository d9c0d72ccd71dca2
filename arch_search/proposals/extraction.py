"""Which functions of a program of free code could be primitives: text alone, nothing is executed.

A function of one tensor is rewritten with names of ours and without its words, so that nothing of what a model wrote
but the computation is left. B rows, T tokens, H heads, d per head, D = H d.
"""

from __future__ import annotations

import ast
import copy
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from arch_search.errors import ProposalError
from arch_search.proposals.difference import definitions
from arch_search.proposals.fingerprint import definition_form, grown_name
from arch_search.proposals.registry import Toolbox
from arch_search.proposals.rendering import toolbox_sources
from arch_search.proposals.splice import drop_words, parse
from arch_search.syntax import syntax_tree

# what the function is given and gives in its program; all but the first are turned into it
Layout = Literal["BHTd", "BTHd", "BTD"]
LAYOUTS: tuple[Layout, ...] = ("BHTd", "BTHd", "BTD")
MAX_BYTES = 2000
_MAX_PIECES = 16  # of one program
_FIRST: Mapping[Layout, str] = {
    "BHTd": "",
    "BTHd": "v = v.transpose(1, 2)",
    "BTD": "heads = v.shape[1]\nv = v.transpose(1, 2).flatten(2)",
}
_TURNED: Mapping[Layout, str] = {
    "BTHd": ".transpose(1, 2)",
    "BTD": ".unflatten(2, (heads, -1)).transpose(1, 2)",
}
_PLAIN = (
    *(ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.For, ast.If, ast.Pass),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.keyword, ast.Attribute, ast.Name),
    *(ast.Subscript, ast.Slice, ast.Constant, ast.Tuple, ast.List, ast.Starred),
    *(ast.ListComp, ast.GeneratorExp, ast.comprehension),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context),
)
_BUILTINS = frozenset({"range", "len", "int", "float", "min", "max", "sum", "abs", "enumerate", "zip", "reversed"})
_MODULES = frozenset({"torch", "F"})
_EQUATION = re.compile(r"[a-zA-Z]{1,6}(,[a-zA-Z]{1,6})*->[a-zA-Z]{0,6}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A function of a program that could be a primitive: as it would be for each layout that it may work in."""

    place: str  # qualified name in its program; a model's text, never shown
    line: int
    argument: str  # the one that holds the tensor
    sources: dict[Layout, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """A function of a program that cannot be one, by its text alone."""

    line: int
    reason: str


def pieces_of(program: str, reference: str, toolbox: Toolbox) -> tuple[Piece | Unfit, ...]:
    """Every function of the program that is neither the reference's nor of the toolbox, in the order of the text."""
    tree = parse(program)
    drop_words(tree)
    known_tree = parse(reference)
    drop_words(known_tree)
    known = {name: ast.dump(node) for name, node in definitions(known_tree).items()}
    usable = {*_BUILTINS, *_MODULES, *_unchanged(tree, toolbox)}
    found: list[Piece | Unfit] = []
    for name, node in definitions(tree).items():
        if isinstance(node, ast.FunctionDef) and ast.dump(node) != known.get(name) and name not in usable:
            try:
                found.append(_piece(name, node, usable))
            except ProposalError as error:
                found.append(Unfit(line=node.lineno, reason=str(error)))
            except RecursionError:
                found.append(Unfit(line=node.lineno, reason="it is nested too deeply"))
    return tuple(found[:_MAX_PIECES])


def twin_of(source: str, toolbox: Toolbox) -> str:
    """The primitive that is the same function in other words; empty where there is none."""
    own = definition_form(source)
    built_in = toolbox_sources()[0].items()
    others = [*built_in, *((one.primitive.name, one.source) for one in toolbox.grown)]
    return next((name for name, text in others if definition_form(text) == own), "")


def _unchanged(tree: ast.Module, toolbox: Toolbox) -> set[str]:
    """Functions of the toolbox that the program has as they are."""
    sources = toolbox_sources()[0] | {one.primitive.name: one.source for one in toolbox.grown}
    own = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    return {
        name
        for name, node in own.items()
        if name in sources and definition_form(ast.unparse(node)) == definition_form(sources[name])
    }


def _piece(name: str, node: ast.FunctionDef, usable: set[str]) -> Piece:
    is_method = "." in name
    decorators = [ast.unparse(one) for one in node.decorator_list]
    if decorators not in ([], ["staticmethod"]):
        raise ProposalError("it is decorated")
    plain = node.args.args[1:] if is_method and not decorators else node.args.args
    if node.args.vararg or node.args.kwarg or node.args.kwonlyargs or node.args.posonlyargs:
        raise ProposalError("its arguments are not plain")
    _require_plain(node, receiver=node.args.args[0].arg if is_method and not decorators and node.args.args else "")
    read = {one.id for one in _names(node) if isinstance(one.ctx, ast.Load)}
    defaults = dict(zip([one.arg for one in plain][::-1], node.args.defaults[::-1], strict=False))
    used = [one.arg for one in plain if one.arg in read]
    tensors = [one for one in used if one not in defaults]
    if len(tensors) != 1:
        raise ProposalError(f"it works on {len(tensors)} arguments, a primitive on one")
    options = {one: defaults[one] for one in used if one in defaults}
    if not all(isinstance(one, ast.Constant) and isinstance(one.value, int | float) for one in options.values()):
        raise ProposalError("a default of it is no number")
    bound = {*used, *(one.id for one in _names(node) if not isinstance(one.ctx, ast.Load))}
    if read - bound - usable:
        raise ProposalError("it is not self-contained: it reads names from outside that are not of the toolbox")
    names = _own_names(node, tensors[0], options, bound)
    sources = {layout: _source(node, layout, names, options) for layout in LAYOUTS}
    if len(sources["BHTd"].encode()) > MAX_BYTES:
        raise ProposalError(f"it has {len(sources['BHTd'].encode())} bytes, at most {MAX_BYTES} are taken")
    return Piece(place=name, line=node.lineno, argument=tensors[0], sources=sources)


def _require_plain(node: ast.FunctionDef, *, receiver: str) -> None:
    """Nothing but a computation on its arguments: no state, no text, no effect."""
    for one in (one for statement in node.body for one in ast.walk(statement)):
        if not isinstance(one, _PLAIN):
            raise ProposalError(f"it holds {type(one).__name__}, which is no plain computation")
        if receiver and isinstance(one, ast.Name) and one.id == receiver:
            raise ProposalError("it reads the state of its module")
        if isinstance(one, ast.Constant) and not _is_plain_constant(one.value):
            raise ProposalError("it holds text")
        if isinstance(one, ast.Attribute) and one.attr.startswith("_"):
            raise ProposalError("it reads a private attribute")
        if isinstance(one, ast.Attribute | ast.Subscript) and not isinstance(one.ctx, ast.Load):
            raise ProposalError("it writes in place")
        if isinstance(one, ast.Call) and _writes(one):
            raise ProposalError("it writes in place")
        if isinstance(one, ast.Return) and (one.value is None or isinstance(one.value, ast.Tuple)):
            raise ProposalError("it does not give one tensor")
    if not any(isinstance(one, ast.Return) for one in ast.walk(node)):
        raise ProposalError("it gives nothing")


def _is_plain_constant(value: object) -> bool:
    """A number, None or Ellipsis; of text only an equation of torch.einsum, too short to say anything."""
    return bool(_EQUATION.fullmatch(value)) if isinstance(value, str) else not isinstance(value, bytes)


def _writes(call: ast.Call) -> bool:
    by_name = isinstance(call.func, ast.Attribute) and re.search(r"[^_]_$", call.func.attr)
    return bool(by_name) or any(keyword.arg in ("out", None) for keyword in call.keywords)


def _names(node: ast.FunctionDef) -> list[ast.Name]:
    """In the order of the text, as far as a tree knows it."""
    found = [one for statement in node.body for one in ast.walk(statement) if isinstance(one, ast.Name)]
    return sorted(found, key=lambda one: (one.lineno, one.col_offset))


def _own_names(node: ast.FunctionDef, tensor: str, options: Mapping[str, ast.expr], bound: set[str]) -> dict[str, str]:
    """A name of ours for everything that the function binds."""
    order = dict.fromkeys([*options, *(one.id for one in _names(node) if one.id in bound)])
    order.pop(tensor, None)
    return {tensor: "v", **{name: f"a{number}" for number, name in enumerate(order, 1)}}


def _source(node: ast.FunctionDef, layout: Layout, names: Mapping[str, str], options: Mapping[str, ast.expr]) -> str:
    """The function as programs would copy it in, from vectors (B, H, T, d) to vectors."""
    body = copy.deepcopy(node.body)
    for one in (one for statement in body for one in ast.walk(statement)):
        if isinstance(one, ast.Name):
            one.id = names.get(one.id, one.id)
    lines = [_FIRST[layout], *(ast.unparse(_Result(layout).visit(statement)) for statement in body)]
    arguments = ", ".join(["v: Tensor", *(f"{names[name]}={ast.unparse(value)}" for name, value in options.items())])
    text = f"def found({arguments}) -> Tensor:\n" + textwrap.indent("\n".join(filter(None, lines)), "    ") + "\n"
    return text.replace("def found(", f"def {grown_name(text)}(", 1)


class _Result(ast.NodeTransformer):
    """What is returned, turned into the layout of vectors."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def visit_Return(self, node: ast.Return) -> ast.AST:
        assert node.value is not None, "a function that returns nothing is no piece"
        if self._layout == "BHTd":
            return node
        turned = f"({ast.unparse(node.value)}){_TURNED[self._layout]}"
        return syntax_tree(f"return {turned}").body[0]

"""One form for what two writers of the same computation may write differently: constants, order, annotations.

Every step keeps what the program computes: constants are folded only where Python or torch would come to the same
number, operands change places only in sums and products of numbers or tensors (their rounding may differ in the last
digit), definitions only where nothing runs between them.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable

from arch_search.proposals.reals import Reals, is_number

_MAX_INTEGER = 2**53
_COMPUTED: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_OVERLOADS = frozenset(
    {"__add__", "__radd__", "__mul__", "__rmul__", "__neg__", "__truediv__", "__torch_function__", "__getattribute__"}
)
_CHANGING_CALLS = frozenset({"append", "extend", "insert", "pop", "update", "setdefault", "next", "setattr"})


class Unordered(ast.AST):
    """Members whose order means nothing: operands of a sum or product, or definitions in a row."""

    _fields = ("what", "members")

    def __init__(self, what: str, members: Iterable[ast.AST]) -> None:
        super().__init__()
        self.what = what
        self.members = list(members)


def canonical(tree: ast.Module) -> ast.Module:
    """A tree without words in that form, changed in place; it can be compared, but no longer be run or printed."""
    _drop_unused_imports(tree)
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        function.body = [_Bare().visit(one) for one in function.body]
    _Folder(Reals(tree), is_pure=not _has_effects(tree)).visit(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef)):
            node.body = _rows(node.body, tree)
        if isinstance(node, ast.Call) and all(keyword.arg for keyword in node.keywords):
            node.keywords.sort(key=lambda keyword: keyword.arg or "")
    return tree


# ---- imports and annotations


def _drop_unused_imports(tree: ast.Module) -> None:
    """Imports keep the names that something reads, one name a line, sorted where none hides another."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    lines: list[ast.stmt] = []
    names: list[str] = []
    for node in tree.body:
        for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            bound = (alias.asname or alias.name).split(".")[0]
            if bound in used or alias.name == "*":
                lines.append(type(node)(**{**dict(ast.iter_fields(node)), "names": [alias]}))
                names.append(bound)
    if len(set(names)) == len(names):
        lines.sort(key=ast.dump)
    tree.body = lines + [node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))]


class _Bare(ast.NodeTransformer):
    """Variables lose their annotations."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        if node.value is None or not isinstance(node.target, ast.Name):
            return node
        return ast.Assign(targets=[node.target], value=node.value)


# ---- constants and operands


def _has_effects(tree: ast.Module) -> bool:
    """Whether it might count in which order operands are computed, or whether `x * 1` is x itself or a copy."""
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        if function.name in _OVERLOADS:
            return True
        if function.name == "__init__":
            continue
        for node in ast.walk(function):
            if isinstance(node, (ast.Global, ast.Nonlocal, ast.NamedExpr, ast.AugAssign, ast.Yield, ast.Await)):
                return True
            if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
                return True
            if isinstance(node, ast.Call) and _changes_something(node):
                return True
    return False


def _changes_something(call: ast.Call) -> bool:
    name = ast.unparse(call.func).split(".")[-1]
    in_place = name.endswith("_") and not name.startswith("__")
    return in_place or name in _CHANGING_CALLS or any(keyword.arg == "out" for keyword in call.keywords)


class _Folder(ast.NodeTransformer):
    """Folds constants and makes sums and products `Unordered`, from the inside out."""

    def __init__(self, reals: Reals, *, is_pure: bool) -> None:
        self._reals = reals
        self._is_pure = is_pure

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        inner = node.operand
        if not isinstance(node.op, ast.USub):
            return node
        if is_number(inner):
            return ast.Constant(-inner.value)  # type: ignore[attr-defined]
        is_double = self._is_pure and isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.USub)
        return inner.operand if is_double else node  # type: ignore[attr-defined]

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        is_real = {id(side): self._reals.is_real(side) for side in (node.left, node.right)}
        counts = self._reals.is_numeric(node)
        was = (node.left, node.right)
        self.generic_visit(node)
        real = tuple(is_real[id(side)] for side in was)
        if is_number(node.left) and is_number(node.right):
            return _computed(node, node.left, node.right)  # type: ignore[arg-type]
        if isinstance(node.op, ast.Sub) and is_number(node.right):
            node = ast.BinOp(node.left, ast.Add(), ast.Constant(-node.right.value))  # type: ignore[attr-defined]
            counts = True
        if not self._is_pure:
            return node
        kept = _without_neutral(node, left_is_real=real[0], right_is_real=real[1])
        if kept is not None:
            return kept
        if isinstance(node.op, ast.Mult):
            return _chain("product", node)
        return _chain("sum", node) if isinstance(node.op, ast.Add) and counts else node


def _computed(node: ast.BinOp, left: ast.Constant, right: ast.Constant) -> ast.AST:
    """The number that Python would compute; the node itself where it would not."""
    compute = _COMPUTED.get(type(node.op))
    if compute is None:
        return node
    try:
        value = compute(left.value, right.value)  # type: ignore[arg-type]
    except ArithmeticError:
        return node
    return node if isinstance(value, int) and abs(value) > _MAX_INTEGER else ast.Constant(value)


def _without_neutral(node: ast.BinOp, *, left_is_real: bool, right_is_real: bool) -> ast.AST | None:
    """The other side of `x + 0`, `x * 1` and `x / 1` where x is certainly floating point: an integer would change."""
    neutral = {ast.Add: 0, ast.Mult: 1, ast.Div: 1}.get(type(node.op))
    if neutral is None:
        return None
    if left_is_real and is_number(node.right) and node.right.value == neutral:  # type: ignore[attr-defined]
        return node.left
    swaps = not isinstance(node.op, ast.Div)
    if swaps and right_is_real and is_number(node.left) and node.left.value == neutral:  # type: ignore[attr-defined]
        return node.right
    return None


def _chain(what: str, node: ast.BinOp) -> Unordered:
    members: list[ast.AST] = []
    for side in (node.left, node.right):
        members += side.members if isinstance(side, Unordered) and side.what == what else [side]
    return Unordered(what, members)


# ---- definitions


def _rows(body: list[ast.stmt], tree: ast.Module) -> list[ast.stmt]:
    """The statements, with every row of movable definitions made one `Unordered`."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    rows: list[ast.stmt] = []
    row: list[ast.stmt] = []
    for node in [*body, None]:
        if node is not None and _is_movable(node, own):
            row.append(node)
            continue
        names = {one.name for one in row}  # type: ignore[attr-defined]
        rows += [Unordered("definitions", row)] if len(names) == len(row) > 1 else row  # type: ignore[list-item]
        row = []
        if node is not None:
            rows.append(node)
    return rows


def _is_movable(node: ast.AST, own_classes: set[str]) -> bool:
    """Whether making the definition runs nothing and reads no other one."""
    if isinstance(node, ast.FunctionDef):
        defaults = [*node.args.defaults, *node.args.kw_defaults]
        return not node.decorator_list and all(one is None or isinstance(one, ast.Constant) for one in defaults)
    if not isinstance(node, ast.ClassDef) or node.decorator_list or node.keywords:
        return False
    bases = {name.id for base in node.bases for name in ast.walk(base) if isinstance(name, ast.Name)}
    members = [one for part in node.body for one in (part.members if isinstance(part, Unordered) else [part])]
    return not bases & own_classes and all(
        isinstance(one, ast.FunctionDef) and _is_movable(one, set()) for one in members
    )

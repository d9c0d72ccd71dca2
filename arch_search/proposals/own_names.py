"""Names that a program gives itself and that mean nothing elsewhere: they may be called anything."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

from arch_search.domains import class_names
from arch_search.proposals.registry import PRIMITIVES
from arch_search.proposals.splice import is_of_self

_LEARNED = frozenset(primitive.name for primitive in PRIMITIVES if primitive.home == "learned")
# arguments of a constructor that the framework passes by name
_CONTRACT = frozenset({"self", "hidden_size", "d_model", "num_heads", "n_heads", "layer_idx", "intermediate_size"})
# methods and attributes by which torch or the framework run a module
_OF_TORCH = frozenset(
    {"forward", "train", "eval", "training", "apply", "to", "parameters", "named_parameters", "buffers", "modules"}
    | {"named_buffers", "named_modules", "children", "named_children", "state_dict", "load_state_dict", "zero_grad"}
    | {"requires_grad_", "register_parameter", "register_buffer", "register_module", "add_module", "extra_repr"}
    | {"float", "double", "half", "bfloat16", "cpu", "cuda", "type", "compile"}
)
# a program that uses these may look a name up by its text
_LOOKUPS = frozenset({"getattr", "setattr", "hasattr", "delattr", "vars", "locals", "globals", "eval", "exec", "dir"})


class Own(str):
    """Such a name, in the place of a str; equal for all uses of one name."""

    __slots__ = ()

    @property
    def mark(self) -> str:
        """What the choice of the module reads from it: whether a class is private."""
        return "_" if self.startswith("class _") else ""


def mark_own_names(tree: ast.Module) -> None:
    """Puts an `Own` wherever one stands: functions, classes, variables, attributes of self, learned quantities.

    Names stay that are also builtins, imports, keywords of a call, arguments of the contract, or read in another way
    than the program's own; in a program that looks names up by text, all of them.
    """
    if any(isinstance(node, ast.AsyncFunctionDef) or _looks_up(node) for node in ast.walk(tree)):
        return
    _mark_learned(tree)
    kept = _kept(tree)
    shared = {name: Own(name) for name in _bound(tree, into_functions=False) if name not in kept}
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    shared |= {name: Own(f"class {name}") for name in classes if name not in kept}
    if len(classes) > 1:
        for name in class_names():
            shared.pop(name, None)
    methods = _methods(tree)
    _mark(tree, shared, methods=methods, attributes=_attributes(tree))
    for number, function in enumerate(_outermost_functions(tree)):
        names = {name: Own(f"{number}#{name}") for name in _bound(function) if name not in kept | shared.keys()}
        _mark(function, names, methods=methods, attributes={})


def _looks_up(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in ("__dict__", "__getattr__", "__setattr__", "__name__")
    return isinstance(node, ast.Name) and node.id in _LOOKUPS


def _kept(tree: ast.Module) -> set[str]:
    """Names of variables that mean something besides the program's own use of them."""
    kept = {*dir(builtins), *_CONTRACT, *_read_in_classes(tree)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            kept |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        if isinstance(node, ast.keyword) and node.arg:
            kept.add(node.arg)
        # as keywords are given by a dict
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not isinstance(node.value, Own):
            kept.add(node.value)
    return kept


def _read_in_classes(tree: ast.Module) -> set[str]:
    """Names that are bound or read while a class is made."""
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    parts = (part for node in classes for part in _run_in_class(node))
    return {name.id for part in parts for name in ast.walk(part) if isinstance(name, ast.Name)}


def _run_in_class(node: ast.ClassDef) -> Iterator[ast.AST]:
    """What runs while the class is made: there its attributes are read as variables."""
    for one in _members(node.body):
        if isinstance(one, ast.FunctionDef):
            yield from (*one.decorator_list, *one.args.defaults, *(one for one in one.args.kw_defaults if one))
        else:
            yield one


def _members(body: list[ast.stmt]) -> list[ast.AST]:
    """Statements, those of a row of definitions one by one."""
    return [one for node in body for one in getattr(node, "members", [node])]


def _attributes(tree: ast.Module) -> dict[str, Own]:
    """Methods and attributes of self that are read through self alone and named nowhere as text."""
    found, other = set(_methods(tree).values()), _read_in_classes(tree) | _OF_TORCH
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not is_of_self(node):
            other.add(node.attr)
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not isinstance(node.value, Own):
            other.add(node.value)
    return {name: Own(f".{name}") for name in found - other if not name.startswith("__")}


def _methods(tree: ast.Module) -> dict[int, str]:
    """Names of the methods, by the identity of their node."""
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    members = (one for node in classes for one in _members(node.body))
    return {id(one): one.name for one in members if isinstance(one, ast.FunctionDef)}


def _mark_learned(tree: ast.Module) -> None:
    """Names of learned quantities; not of kinds that the program defines anew."""
    kinds = _LEARNED - set(_methods(tree).values())
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in kinds
            and node.args
        ):
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                name.value = Own(f"{node.func.attr}:{name.value}")


def _outermost_functions(tree: ast.Module) -> list[ast.FunctionDef]:
    inner = {
        id(one)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for one in ast.walk(node)
        if one is not node
    }
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and id(node) not in inner]


def _bound(node: ast.AST, *, into_functions: bool = True) -> set[str]:
    """Names that the node binds as variables; methods are none."""
    found: set[str] = set()
    waiting: list[tuple[ast.AST, bool]] = [(one, False) for one in ast.iter_child_nodes(node)]
    while waiting:
        one, is_member = waiting.pop()
        match one:
            case ast.FunctionDef(name=name) if not is_member:
                found.add(name)
            case ast.arg(arg=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                found.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                found.add(name)
        if into_functions or not isinstance(one, ast.FunctionDef):
            member = isinstance(one, ast.ClassDef) or (is_member and hasattr(one, "members"))
            waiting += [(child, member) for child in ast.iter_child_nodes(one)]
    return found


def _mark(tree: ast.AST, names: dict[str, Own], *, methods: dict[int, str], attributes: dict[str, Own]) -> None:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name):
                node.name = attributes.get(name, name) if id(node) in methods else names.get(name, name)
            case ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                node.name = names.get(name, name)
            case ast.Name(id=name):
                node.id = names.get(name, name)
            case ast.arg(arg=name):
                node.arg = names.get(name, name)
            case ast.Global(names=listed) | ast.Nonlocal(names=listed):
                node.names = [names.get(name, name) for name in listed]
            case ast.Attribute(attr=name) if is_of_self(node):
                node.attr = attributes.get(name, name)

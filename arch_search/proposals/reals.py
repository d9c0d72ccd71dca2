"""Which expressions of a program are certainly floating-point numbers or tensors, as far as its text tells."""

from __future__ import annotations

import ast
from collections import Counter

from arch_search.proposals.registry import BY_HOOK, PRIMITIVES

_REAL_CALLS = frozenset(
    {f"torch.{name}" for name in ("sigmoid", "exp", "log", "sqrt", "rsqrt", "sin", "cos", "softmax", "rand", "randn")}
    | {f"F.{name}" for name in ("softplus", "logsigmoid", "gelu", "softmax", "normalize", "linear", "layer_norm")}
    | {primitive.call for primitive in PRIMITIVES if primitive.home == "learned"}
    | {"math.sqrt", "math.log", "math.exp", "float"}
)
# they give the kind of number that their first argument is
_KEEPING_CALLS = frozenset(
    {"prev", "avg", "l2norm", "F.silu", "F.elu", "F.relu", "F.pad", "torch.tanh", "torch.abs", "torch.cumsum"}
    | {"torch.zeros_like", "torch.ones_like", "torch.clamp", "torch.square"}
)
_KEEPING_METHODS = frozenset(
    {"abs", "cumsum", "clamp", "contiguous", "detach", "exp", "expand", "flatten", "flip", "log", "mean", "permute"}
    | {"reshape", "roll", "rsqrt", "sigmoid", "softmax", "sqrt", "square", "sum", "tanh", "transpose", "tril", "triu"}
    | {"unsqueeze", "squeeze", "view"}
)


def is_number(node: ast.AST) -> bool:
    """Whether the node is a constant int or float; True and False are none."""
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


class Reals:
    """Asked before the tree is changed. A name is real where its one assignment in the function is."""

    def __init__(self, tree: ast.Module) -> None:
        self._bound = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        self._bound |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and _is_store(node)}
        self._names: set[int] = set()
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            self._read(function)

    def is_real(self, node: ast.AST) -> bool:
        """Whether the value is certainly of floating point."""
        match node:
            case ast.Constant(value=value):
                return type(value) is float
            case ast.Name():
                return id(node) in self._names
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.is_real(operand)
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow(), left=left, right=right):
                return self.is_real(left) or self.is_real(right)
            case ast.BinOp(op=ast.MatMult(), left=left, right=right):
                return self.is_real(left) or self.is_real(right)
            case ast.Attribute(value=value, attr="mT" | "T"):
                return self.is_real(value)
            case ast.Subscript(value=value):
                return self.is_real(value)
            case ast.Call():
                return self._gives_real(node)
        return False

    def is_numeric(self, node: ast.AST) -> bool:
        """Whether the value is certainly a number or tensor, so that a sum with it is no joining of sequences."""
        if is_number(node) or self.is_real(node):
            return True
        match node:
            case ast.UnaryOp(op=ast.USub()) | ast.BinOp(op=ast.Sub() | ast.Div() | ast.Pow() | ast.MatMult()):
                return True
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return self.is_numeric(left) or self.is_numeric(right)
        return False

    def _gives_real(self, call: ast.Call) -> bool:
        name = ast.unparse(call.func)
        if name.split(".")[0] in self._bound:
            return False
        if name in _REAL_CALLS:
            return True
        if name in _KEEPING_CALLS:
            return bool(call.args) and self.is_real(call.args[0])
        function = call.func
        return (
            isinstance(function, ast.Attribute) and function.attr in _KEEPING_METHODS and self.is_real(function.value)
        )

    def _read(self, function: ast.FunctionDef) -> None:
        """Marks the uses of real names: arguments of hooks, and variables with one assignment, in order."""
        arguments = [argument.arg for argument in function.args.args[1:]]
        hook = BY_HOOK.get(function.name)
        real = set(arguments) if hook and len(arguments) == len(hook.arguments) else set()
        nodes = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
        stores = Counter([node.id for node in nodes if _is_store(node)])
        stores.update(node.arg for node in ast.walk(function) if isinstance(node, ast.arg))
        real = {name for name in real if stores[name] == 1}
        for statement in [None, *function.body]:
            self._names |= {id(node) for node in nodes if node.id in real}
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    if stores[name] == 1 and self.is_real(value):
                        real.add(name)
        self._names |= {id(node) for node in nodes if node.id in real}


def _is_store(node: ast.Name) -> bool:
    return not isinstance(node.ctx, ast.Load)

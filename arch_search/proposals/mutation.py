"""The mutate arm: random changes of a program's syntax tree, without a language model."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Container

import numpy as np

from arch_search.errors import ProposalError
from arch_search.proposals import hooks, splice
from arch_search.proposals.assignment import Draft
from arch_search.proposals.difference import describe_difference
from arch_search.proposals.fingerprint import normal_form
from arch_search.proposals.registry import BUILT_IN, PRIMITIVES, Primitive, Toolbox
from arch_search.proposals.rendering import (
    header,
    is_toolbox_program,
    render,
    with_header,
)
from arch_search.syntax import syntax_tree
from cognition_db.records import Candidate

_TRIES = 60
_ACTIVATIONS = tuple(primitive.call for primitive in PRIMITIVES if primitive.home == "torch")
_TAPS = (3, 5, 7, 15, 31)
_SPEEDS = (0.01, 0.05, 0.2)
# Change of one function body in place; False where it finds nothing to change.
_Change = Callable[[ast.FunctionDef, np.random.Generator], bool]


def mutate(parent: Candidate, rng: np.random.Generator, toolbox: Toolbox, *, banned: Container[str] = ()) -> Draft:
    """One random change of the parent: of a hook where it is built on the toolbox, else anywhere in its methods.

    Hooks that are `banned` are left as they are.
    Raises ProposalError where no try in 60 gives another program.
    """
    before = normal_form(parent.program)
    on_toolbox = is_toolbox_program(parent.program, toolbox)
    for _ in range(_TRIES):
        program = _changed_hook(parent.program, rng, banned, toolbox) if on_toolbox else _changed_anywhere(parent, rng)
        if program is None or splice.undefined_names(program) or normal_form(program) == before:
            continue
        change = describe_difference(parent.program, program)
        text = header(origin=f"Random change of the syntax tree of parent {parent.id}.", change=change)
        program = render(program, text, toolbox) if on_toolbox else with_header(program, text)
        return Draft(program=program, class_name=parent.class_name, motivation=change)
    raise ProposalError(f"no random change of parent {parent.id} gave another program in {_TRIES} tries")


def _changed_hook(program: str, rng: np.random.Generator, banned: Container[str], toolbox: Toolbox) -> str | None:
    present = hooks.hooks_of(program)
    names = [name for name in present if name not in banned]
    name = names[int(rng.integers(len(names)))]
    node = copy.deepcopy(present[name])
    if not isinstance(node.body[-1], ast.Return) or node.body[-1].value is None:
        return None
    new_paths: list[_Change] = [lambda node, rng: _NEW_PATHS[name](node, rng, toolbox)] if name in _NEW_PATHS else []
    changes = (*new_paths, *_BY_HOOK.get(name, ()), _swap_activation, _change_number, _remove_path)
    if not changes[int(rng.integers(len(changes)))](node, rng):
        return None
    return hooks.rendered(hooks.with_hook(program, node), toolbox)


def _changed_anywhere(parent: Candidate, rng: np.random.Generator) -> str | None:
    """A method of a program outside the toolbox with another activation, operator or constant."""
    present = [one for one in splice.methods(parent.program, parent.class_name).values() if one.name != "__init__"]
    node = copy.deepcopy(present[int(rng.integers(len(present)))])
    change = (_swap_activation, _change_number, _change_operand)[int(rng.integers(3))]
    if not change(node, rng):
        return None
    return splice.put_method(parent.program, parent.class_name, node.name, ast.unparse(node))


def _swap_activation(node: ast.FunctionDef, rng: np.random.Generator) -> bool:
    """Another activation; the outermost call stays, because it keeps write strength and decay in range."""
    guard = node.body[-1].value if isinstance(node.body[-1], ast.Return) else None
    calls = [
        one
        for one in ast.walk(node)
        if isinstance(one, ast.Call) and ast.unparse(one.func) in _ACTIVATIONS and not _is_guard(one, guard, node.name)
    ]
    if not calls:
        return False
    call = calls[int(rng.integers(len(calls)))]
    others = [name for name in _ACTIVATIONS if name != ast.unparse(call.func)]
    call.func = _expression(others[int(rng.integers(len(others)))])
    return True


def _is_guard(call: ast.Call, result: ast.expr | None, hook_name: str) -> bool:
    if hook_name not in ("write_strength", "decay") or result is None:
        return False
    return call is result or (isinstance(result, ast.BinOp) and call is result.right)


def _change_number(node: ast.FunctionDef, rng: np.random.Generator) -> bool:
    """Another distance, window, filter length or start value of a toolbox call."""
    found = [
        (call, position, argument)
        for call in ast.walk(node)
        # nothing that grew takes a number
        if isinstance(call, ast.Call) and (primitive := BUILT_IN.called(ast.unparse(call.func)))
        for position, argument in enumerate(primitive.signatures[0].takes)
        if argument in ("count", "taps", "start") and position < len(call.args)
    ]
    if not found:
        return False
    call, position, argument = found[int(rng.integers(len(found)))]
    values: dict[str, tuple[float, ...]] = {
        "count": tuple(range(1, 9)),
        "taps": _TAPS,
        "start": (0.0, 0.5, 1.0, -1.0, 2.0),
    }
    call.args[position] = ast.Constant(values[argument][int(rng.integers(len(values[argument])))])
    return True


def _change_operand(node: ast.FunctionDef, rng: np.random.Generator) -> bool:
    """One product becomes a sum, or a sum a product, or its right side goes through an activation."""
    found = [
        one
        for statement in node.body
        for one in ast.walk(statement)
        if isinstance(one, ast.BinOp) and isinstance(one.op, (ast.Add, ast.Mult))
    ]
    if not found:
        return False
    chosen = found[int(rng.integers(len(found)))]
    if rng.integers(2):
        chosen.op = ast.Mult() if isinstance(chosen.op, ast.Add) else ast.Add()
    else:
        chosen.right = _with_result(f"{_ACTIVATIONS[int(rng.integers(len(_ACTIVATIONS)))]}(R)", chosen.right)
    return True


def _remove_path(node: ast.FunctionDef, rng: np.random.Generator) -> bool:
    """One sum in the function loses its right side."""
    sums = [one for one in ast.walk(node) if isinstance(one, ast.BinOp) and isinstance(one.op, ast.Add)]
    if not sums:
        return False
    chosen = sums[int(rng.integers(len(sums)))]
    hooks.replace(node, chosen, chosen.left)
    return True


def _add_path(node: ast.FunctionDef, rng: np.random.Generator, toolbox: Toolbox) -> bool:
    """The returned vector gets one more path or a gate."""
    result = _returned(node)
    vectors = [argument.arg for argument in node.args.args if argument.arg not in ("self", "x", "o")]
    path = _path(vectors, rng, toolbox)
    gate = f"torch.sigmoid(self.p.lin1({_name(rng)}, x))"
    forms = (f"R + {path}", f"R + {gate} * {path}", f"R * {gate}", f"{gate} * R + (1 - {gate}) * {path}")
    _set_result(node, forms[int(rng.integers(len(forms)))], result)
    return True


def _change_feature(node: ast.FunctionDef, rng: np.random.Generator, toolbox: Toolbox) -> bool:
    """Query or key gets a neighbour, a window mean or a filter."""
    result = _returned(node)
    if not isinstance(result, ast.Tuple) or len(result.elts) != 2:
        return False
    side = int(rng.integers(2))
    result.elts[side] = _with_result(f"R + {_path([('q', 'k')[side]], rng, toolbox)}", result.elts[side])
    return True


def _change_strength(node: ast.FunctionDef, rng: np.random.Generator) -> bool:
    """The write strength gets one more term, or reaches 2."""
    term = f"self.p.lin1({_name(rng)}, x)"
    bias = f"self.p.scalar({_name(rng)}, {(0.5, 1.0, -1.0)[int(rng.integers(3))]})"
    forms = (f"2 * torch.sigmoid({term})", f"torch.sigmoid({term} + {bias})", f"R * torch.sigmoid({term})")
    _set_result(node, forms[int(rng.integers(len(forms)))], _returned(node))
    return True


def _change_decay(node: ast.FunctionDef, rng: np.random.Generator) -> bool:
    """The log decay gets another rate from the input."""
    speed = _SPEEDS[int(rng.integers(len(_SPEEDS)))]
    forms = (
        f"-{speed} * F.softplus(self.p.lin1({_name(rng)}, x))",
        f"-{speed} * F.softplus(self.p.lin1({_name(rng)}, x) + self.p.scalar({_name(rng)}, 1.0))",
        f"R - {speed} * F.softplus(self.p.lin1({_name(rng)}, x))",
    )
    _set_result(node, forms[int(rng.integers(len(forms)))], _returned(node))
    return True


def _change_gate(node: ast.FunctionDef, rng: np.random.Generator) -> bool:
    """The output is multiplied with one more gate."""
    name = _name(rng)
    forms = (
        f"R * F.silu(self.p.lind({name}, x))",
        f"R * torch.sigmoid(self.p.lind({name}, x))",
        f"R * 2 * torch.sigmoid(self.p.lin1({name}, x))",
    )
    _set_result(node, forms[int(rng.integers(len(forms)))], _returned(node))
    return True


_BY_HOOK: dict[str, tuple[_Change, ...]] = {
    "write_strength": (_change_strength,),
    "decay": (_change_decay,),
    "output_gate": (_change_gate,),
}
_NEW_PATHS: dict[str, Callable[[ast.FunctionDef, np.random.Generator, Toolbox], bool]] = {
    "feature_map": _change_feature,
    "values": _add_path,
    "mix_paths": _add_path,
    "mix": _add_path,
}


def _path(vectors: list[str], rng: np.random.Generator, toolbox: Toolbox) -> str:
    """One operation of the toolbox on one of the vectors, or the vector times a learned constant."""
    vector = vectors[int(rng.integers(len(vectors)))]
    values = {
        "vector": vector,
        "name": _name(rng),
        "count": str(rng.integers(1, 9)),
        "taps": str(_TAPS[int(rng.integers(len(_TAPS)))]),
    }
    operations = _operations(toolbox)
    index = int(rng.integers(len(operations) + 1))
    if index == len(operations):
        return f"self.p.vector({values['name']}, 0.5) * {vector}"
    operation = operations[index]
    return f"{operation.call}({', '.join(values[one] for one in operation.signatures[0].takes)})"


def _operations(toolbox: Toolbox) -> list[Primitive]:
    """Those that turn one vector into another."""
    return [
        primitive
        for primitive in toolbox.primitives
        if primitive.home in ("function", "learned") and primitive.signatures[0].takes.count("vector") == 1
    ]


def _name(rng: np.random.Generator) -> str:
    """A new name of a learned quantity; one of 10,000, so that two seldom meet."""
    return f'"m{int(rng.integers(10_000)):04d}"'


def _returned(node: ast.FunctionDef) -> ast.expr:
    last = node.body[-1]
    assert isinstance(last, ast.Return), "only functions that end in a return are changed"
    assert last.value is not None, "and that return a value"
    return last.value


def _set_result(node: ast.FunctionDef, form: str, result: ast.expr) -> None:
    node.body[-1] = ast.Return(value=_with_result(form, result))


def _with_result(form: str, result: ast.expr) -> ast.expr:
    """The expression `form` with the name R replaced by `result`."""
    tree = ast.Expression(_expression(form))
    for node in [one for one in ast.walk(tree) if isinstance(one, ast.Name) and one.id == "R"]:
        hooks.replace(tree, node, result)
    return tree.body


def _expression(text: str) -> ast.expr:
    return syntax_tree(text).body[0].value  # type: ignore[attr-defined, no-any-return]

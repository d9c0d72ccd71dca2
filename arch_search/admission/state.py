"""What a module keeps to itself: weights the optimiser does not see, and memory from one call to the next."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from arch_search.admission.subject import Subject, call, draw
from cognition_db.records import Verdict

_MAX_DEPTH = 5
_MAX_ITEMS = 2000
# calls with one input by length: a count may be read at its second, third or tenth call, or at long inputs only
_REPEATS = {33: 10, 257: 2}
_SEEDS = (11, 4711)
_PROGRAMS = "candidate_program"
# a count of calls that a module reaches in training
_LATER_CALLS = (500, 10_000, 1_000_000)
_OWN_ATTRIBUTES = frozenset(vars(nn.Module()))
# float32 rounding of one and the same computation; CPU kernels repeat exactly
_SAME = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A value that outlives a call; `put` sets it anew, None where it cannot be set."""

    path: str
    value: Any
    put: Callable[[Any], None] | None = None


def check_hidden(subject: Subject) -> tuple[Verdict, ...]:
    """Verdict `hidden_parameters`: every trainable tensor must be a registered parameter, every random one saved."""
    for train, T in itertools.product((True, False), _REPEATS):
        reason = _hidden_leaf(subject.build().train(train), draw(2, T, subject.d_model, seed=1))
        if reason:
            return (_refused("hidden_parameters", reason),)
    other = {kept.path: kept.value for kept in _attributes(subject.build(seed=_SEEDS[1]))}
    again = subject.build(seed=_SEEDS[0])
    saved = {_own(tensor) for tensor in (*again.parameters(), *again.buffers())}
    for kept in _attributes(again):
        path, value, twin = kept.path, kept.value, other.get(kept.path)
        if isinstance(value, Tensor) and _own(value) in saved:
            continue
        if isinstance(value, nn.Module) and any(True for _ in value.parameters()):
            return (_refused("hidden_parameters", f"{path} holds a module that is not registered; use nn.ModuleList"),)
        if isinstance(value, Tensor) and isinstance(twin, Tensor) and not _equal(value, twin):
            return (_refused("hidden_parameters", f"{path} is random but neither a parameter nor a buffer"),)
    return (Verdict(check="hidden_parameters", outcome="passed", reason="every trainable tensor is registered"),)


def _hidden_leaf(module: nn.Module, x: Tensor) -> str:
    """What is trainable in the output without being a parameter from the start, in words; empty where nothing is."""
    registered = {id(parameter) for parameter in _registered(module)}
    output = call(module, x, grad=True)
    late = sum(id(parameter) not in registered for parameter in _registered(module))
    if late:
        return f"{late} parameters appear in forward; make them in __init__"
    for leaf in _leaves(output):
        if id(leaf) not in registered and _own(leaf) != _own(x):
            name = next((kept.path for kept in _attributes(module) if kept.value is leaf), "a tensor")
            return f"{name} {list(leaf.shape)} is trainable but no registered parameter"
    return ""


def check_memory(subject: Subject, program: ModuleType | None) -> tuple[Verdict, ...]:
    """Verdicts `state_between_calls` and `seeding` (a mark).

    The same input must give the same output after other calls and a backward pass, soon and later, and no call may
    write to a weight.
    """
    verdict = Verdict(check="state_between_calls", outcome="passed", reason="repeated calls agree")
    for train in (False, True):
        for T, repeats in _REPEATS.items():
            found = _memory(subject, program, train=train, T=T, repeats=repeats)
            if found is not None and found.refuses:
                return (found,)
            verdict = found or verdict
    return verdict, _seeding(subject)


def _memory(subject: Subject, program: ModuleType | None, *, train: bool, T: int, repeats: int) -> Verdict | None:
    module = subject.build().train(train)
    mode = f"{'train' if train else 'eval'}, T = {T}"
    x = draw(2, T, subject.d_model, seed=2)
    first = call(module, x, grad=train).detach()
    # a projection of the weights in place gives the same again, what learns in forward does not
    weights = [parameter.detach().clone() for parameter in module.parameters()]
    again = [call(module, x, grad=train).detach() for _ in range(repeats)]
    _use(module, draw(2, T + 7, subject.d_model, seed=3), train)
    again.append(call(module, x, grad=train).detach())
    if not all(_equal(first, other) for other in again):
        return _refused("state_between_calls", f"the same input gives another output on a later call ({mode})")
    if not all(map(torch.equal, weights, module.parameters())):
        return _refused("state_between_calls", f"a call or its backward pass writes to a weight ({mode})")
    before = _snapshot(module, program)
    _use(module, x, train)
    changed = [
        kept
        for kept in _snapshot(module, program).values()
        if kept.path not in before or not _equal(before[kept.path].value, kept.value)
    ]
    later = _acts_later(module, x, changed, train)
    if later:
        return _refused("state_between_calls", f"{later} counts calls and later changes the output ({mode})")
    if not changed:
        return None
    names = ", ".join(sorted(kept.path for kept in changed)[:3])
    reason = f"{names} changes with every call ({mode}); outputs do not"
    return Verdict(check="state_between_calls", outcome="unknown", reason=reason)


def _use(module: nn.Module, x: Tensor, train: bool) -> None:
    """One call, in training with its backward pass: hooks on gradients may keep things as well."""
    output = call(module, x, grad=train)
    if train and output.requires_grad:
        (output * draw(*x.shape, seed=4).to(output.dtype)).sum().backward()  # type: ignore[no-untyped-call]
        module.zero_grad()


def _seeding(subject: Subject) -> Verdict:
    """Whether two seeds leave torch's generator in one state: then the program sets it."""

    def after_build(seed: int) -> Tensor:
        subject.build(seed=seed)
        return torch.get_rng_state()

    def after_call(seed: int, *, train: bool, T: int) -> Tensor:
        call(subject.build().train(train), draw(2, T, subject.d_model, seed=2), grad=False, seed=seed)
        return torch.get_rng_state()

    calls: list[Callable[[int], Tensor]] = [
        partial(after_call, train=train, T=T) for train, T in itertools.product((True, False), _REPEATS)
    ]
    for where, state in (("__init__", after_build), *(("forward", one) for one in calls)):
        if torch.equal(state(_SEEDS[0]), state(_SEEDS[1])):
            reason = f"{where} sets the seed of torch's generator; use a torch.Generator of its own"
            return Verdict(check="seeding", outcome="failed", reason=reason)
    return Verdict(check="seeding", outcome="passed", reason="leaves the seed of torch's generator alone")


def _acts_later(module: nn.Module, x: Tensor, changed: list[_Kept], train: bool) -> str:
    """Name of a number among the `changed` that, set ahead, changes the output; empty where none does."""
    for kept in changed:
        number = kept.value
        if isinstance(number, Tensor):
            number = number.flatten()[0].item() if number.numel() == 1 else None
        if kept.put is None or isinstance(number, bool) or not isinstance(number, int | float):
            continue
        base = call(module, x, grad=train).detach()
        for later in _LATER_CALLS:
            kept.put(type(number)(later))
            if not _equal(base, call(module, x, grad=train).detach()):
                return kept.path
        kept.put(number)
    return ""


def _leaves(output: Tensor) -> Iterator[Tensor]:
    """Every trainable tensor that the output was computed from."""
    waiting, seen = [output.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            yield variable
        waiting += [before for before, _ in node.next_functions]


def _registered(module: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters as a model that holds the module lists them: what counts and trains."""
    return nn.ModuleList([module]).parameters()


def _own(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _attributes(module: nn.Module) -> Iterator[_Kept]:
    """Tensors, unregistered modules and numbers in plain attributes."""
    registered = {id(child) for child in module.modules()}
    for name, child in module.named_modules():
        for key, value in vars(child).items():
            if key not in _OWN_ATTRIBUTES:
                put = partial(setattr, child, key)
                yield from _items(_Kept(path=f"{name}.{key}" if name else key, value=value, put=put), registered)


def _items(kept: _Kept, registered: set[int], depth: int = 0) -> Iterator[_Kept]:
    """What a value holds, through containers, objects and functions of the program."""
    path, value = kept.path, kept.value
    if isinstance(value, nn.Module):
        if id(value) not in registered:
            yield kept
    elif isinstance(value, Tensor):
        yield _Kept(path=path, value=value, put=lambda number: _fill(value, number))
    elif isinstance(value, int | float | str):
        yield kept
    elif isinstance(value, itertools.count | itertools.cycle):
        yield _Kept(path=path, value=repr(value))
    elif depth < _MAX_DEPTH:
        for item in itertools.islice(_inner(path, value), _MAX_ITEMS):
            yield from _items(item, registered, depth + 1)


def _inner(path: str, value: Any) -> Iterator[_Kept]:
    if isinstance(value, MutableMapping):
        for key, item in list(value.items()):
            yield _Kept(path=f"{path}[{key}]", value=item, put=partial(value.__setitem__, key))
    elif isinstance(value, list | tuple | set | frozenset):
        put_at = value.__setitem__ if isinstance(value, list) else None
        for index, item in enumerate(value):
            put = partial(put_at, index) if put_at else None
            yield _Kept(path=f"{path}[{index}]", value=item, put=put)
    elif isinstance(value, MethodType):
        yield _Kept(path=path, value=value.__func__)
    elif isinstance(value, GeneratorType):
        for key, item in (value.gi_frame.f_locals if value.gi_frame else {}).items():
            yield _Kept(path=f"{path}.{key}", value=item)
    elif isinstance(value, FunctionType) and value.__module__.startswith(_PROGRAMS):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            if cell != type(cell)():
                yield _Kept(
                    path=f"{path}.{name}", value=cell.cell_contents, put=partial(setattr, cell, "cell_contents")
                )
        yield _Kept(path=f"{path} defaults", value=value.__defaults__ or ())
        yield _Kept(path=f"{path} keyword defaults", value=value.__kwdefaults__ or {})
        yield _Kept(path=path, value=vars(value))
    elif type(value).__module__.startswith(_PROGRAMS) and hasattr(value, "__dict__"):
        for key, item in list(vars(value).items()):
            yield _Kept(path=f"{path}.{key}", value=item, put=partial(setattr, value, key))


def _snapshot(module: nn.Module, program: ModuleType | None) -> dict[str, _Kept]:
    """Values by path: attributes, buffers, the environment, and what the program keeps in its module and classes."""
    found = list(_attributes(module))
    for name, buffer in module.named_buffers():
        found += _items(_Kept(path=f"buffer {name}", value=buffer), set())
    for name, value in vars(program).items() if program else ():
        if name.startswith("__"):
            continue
        found += _items(_Kept(path=f"global {name}", value=value, put=partial(setattr, program, name)), set())
        if isinstance(value, type) and program and value.__module__ == program.__name__:
            for key, item in list(vars(value).items()):
                if not key.startswith("__"):
                    put = partial(setattr, value, key)
                    found += _items(_Kept(path=f"class {name}.{key}", value=item, put=put), set())
    found += [_Kept(path=f"environment {name}", value=value) for name, value in os.environ.items()]
    return {
        kept.path: _Kept(path=kept.path, value=_frozen(kept.value), put=kept.put)
        for kept in found
        if not isinstance(kept.value, nn.Module)
    }


def _fill(tensor: Tensor, number: Any) -> None:
    tensor.data.fill_(number)


def _frozen(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if not one.is_floating_point():
            return bool(torch.equal(one, other))
        scale = max(1.0, float(one.detach().abs().max())) if one.numel() else 1.0
        return bool(torch.allclose(one, other, rtol=0.0, atol=_SAME * scale, equal_nan=True))
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return False
    return bool(one == other)


def _refused(check: str, reason: str) -> Verdict:
    return Verdict(check=check, outcome="failed", reason=reason, refuses=True)

"""What a module keeps to itself: weights the optimiser does not see, and memory from one call to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from arch_search.admission.subject import Subject, call, draw
from cognition_db.records import Verdict

_MAX_DEPTH = 5
_MAX_ITEMS = 2000
_LENGTH = 33
_SEEDS = (11, 4711)
# a count of calls that a module reaches in training
_LATER_CALLS = (500, 10_000, 1_000_000)
_OWN_ATTRIBUTES = frozenset(vars(nn.Module()))
# float32 rounding of one and the same computation; CPU kernels repeat exactly
_SAME = 1e-6


def check_hidden(subject: Subject) -> tuple[Verdict, ...]:
    """Verdict `hidden_parameters`: every trainable tensor must be a registered parameter, every random one saved."""
    module = subject.build()
    x = draw(2, _LENGTH, subject.d_model, seed=1)
    output = call(module, x, grad=True)
    registered = {id(parameter) for parameter in module.parameters()}
    for leaf in _leaves(output):
        if id(leaf) not in registered:
            name = next((path for path, value in _attributes(module) if value is leaf), "a tensor")
            shape = list(leaf.shape)
            return (_refused("hidden_parameters", f"{name} {shape} is trainable but no registered parameter"),)
    other = dict(_attributes(subject.build(seed=_SEEDS[1])))
    again = subject.build(seed=_SEEDS[0])
    saved = {tensor.untyped_storage().data_ptr() for tensor in (*again.parameters(), *again.buffers())}
    for path, value in _attributes(again):
        twin = other.get(path)
        if isinstance(value, Tensor) and value.untyped_storage().data_ptr() in saved:
            continue
        if isinstance(value, nn.Module) and any(True for _ in value.parameters()):
            return (_refused("hidden_parameters", f"{path} holds a module that is not registered; use nn.ModuleList"),)
        if isinstance(value, Tensor) and isinstance(twin, Tensor) and not _equal(value, twin):
            return (_refused("hidden_parameters", f"{path} is random but neither a parameter nor a buffer"),)
    return (Verdict(check="hidden_parameters", outcome="passed", reason="every trainable tensor is registered"),)


def check_memory(subject: Subject, program: ModuleType | None) -> tuple[Verdict, ...]:
    """Verdict `state_between_calls`: the same input must give the same output after other calls, soon and later."""
    verdict = Verdict(check="state_between_calls", outcome="passed", reason="repeated calls agree")
    for train in (False, True):
        module = subject.build().train(train)
        x = draw(2, _LENGTH, subject.d_model, seed=2)
        first = call(module, x, grad=train).detach()
        call(module, draw(2, _LENGTH + 7, subject.d_model, seed=3), grad=train)
        second = call(module, x, grad=train).detach()
        mode = "train" if train else "eval"
        if not _equal(first, second):
            return (_refused("state_between_calls", f"the same input gives another output on a later call ({mode})"),)
        before = _snapshot(module, program)
        call(module, x, grad=train)
        changed = [path for path, value in _snapshot(module, program).items() if not _equal(before.get(path), value)]
        kept = _acts_later(module, x, changed, train)
        if kept:
            return (_refused("state_between_calls", f"{kept} counts calls and later changes the output ({mode})"),)
        if changed:
            reason = f"{', '.join(sorted(changed)[:3])} changes with every call ({mode}); outputs do not"
            verdict = Verdict(check="state_between_calls", outcome="unknown", reason=reason)
    return (verdict,)


def _acts_later(module: nn.Module, x: Tensor, changed: list[str], train: bool) -> str:
    """Name of a number among the `changed` that, set ahead, changes the output; empty where none does."""
    submodules = dict(module.named_modules())
    for path in changed:
        owner, _, name = path.rpartition(".")
        holder = submodules.get(owner)
        value = getattr(holder, name, None)
        if holder is None or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        base = call(module, x, grad=train).detach()
        for later in _LATER_CALLS:
            setattr(holder, name, type(value)(later))
            if not _equal(base, call(module, x, grad=train).detach()):
                return path
        setattr(holder, name, value)
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


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Tensors, unregistered modules and numbers in plain attributes, with their paths."""
    registered = {id(child) for child in module.modules()}
    for name, child in module.named_modules():
        for key, value in vars(child).items():
            if key not in _OWN_ATTRIBUTES:
                yield from _items(f"{name}.{key}" if name else key, value, registered, 0)


def _items(path: str, value: Any, registered: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, nn.Module):
        if id(value) not in registered:
            yield path, value
        return
    if isinstance(value, Tensor | int | float | str):
        yield path, value
        return
    if depth >= _MAX_DEPTH:
        return
    if isinstance(value, Mapping):
        inner: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        inner = list(enumerate(value))
    elif type(value).__module__.startswith("candidate_program"):
        inner = list(getattr(value, "__dict__", {}).items())
    else:
        return
    for key, item in inner[:_MAX_ITEMS]:
        yield from _items(f"{path}[{key}]", item, registered, depth + 1)


def _snapshot(module: nn.Module, program: ModuleType | None) -> dict[str, Any]:
    """Values by path: plain attributes, buffers, and what the program keeps at module or class level."""
    found = dict(_attributes(module)) | {f"buffer {name}": value for name, value in module.named_buffers()}
    for name, value in vars(program).items() if program else ():
        if not name.startswith("__"):
            found |= dict(_items(f"global {name}", value, set(), 0))
        if isinstance(value, type) and program and value.__module__ == program.__name__:
            for key, item in vars(value).items():
                found |= dict(_items(f"class {name}.{key}", item, set(), 0)) if not key.startswith("__") else {}
    return {
        path: value.detach().clone() if isinstance(value, Tensor) else value
        for path, value in found.items()
        if not isinstance(value, nn.Module)
    }


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

"""Programs on the operators of kernels/: functions of a program that compute one of them are replaced by it.

A function is recognised by the names of its parameters and by what it computes: it and the operator must agree in
outputs and every gradient on random inputs, at lengths below and beside a chunk. The module on the operators is
then compared with the module as it was written. What is not recognised, or differs, stays as it is. All is compared in
float64, where rounding hides nothing: a program that rounds to bfloat16 inside counts as what it computes before that,
and the operator rounds less than it.

Runs the program's code: only for a child process.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arch_search.models.loading import build_mixer, load_mixer_class, mix
from arch_search.models.stand_in import float64_everywhere
from kernels.causal_conv.fast import causal_conv
from kernels.delta_rule.chunk import delta_rule_chunk_with_state
from kernels.gated_delta_rule.chunk import gated_delta_rule_chunk_with_state

TOLERANCE = 1e-9  # relative difference (Frobenius norm) that rounding of float64 explains
_LENGTHS = (1, 33, 70)
_BATCH, _HEADS, _WIDTH = 2, 3, 8  # all different, so that no layout can be taken for another
_MEMORY = ("q", "k", "v", "beta")
_DECAYS = ("g", "log_g")


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """A function of a program and the operator that runs in its place, as the folder of kernels/."""

    function: str
    operator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FastProgram:
    """The class to build, and what it runs on; `reason` says why a program stays as it was written."""

    program: type[nn.Module]
    path: Literal["kernels", "as_written"]
    swaps: tuple[Swap, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """How a function takes the delta rule's arguments and gives its result."""

    heads_first: bool  # [B, H, T, d] instead of [B, T, H, d]
    scalar_axis: bool  # beta and decay have a last axis of one
    normalises: bool  # q and k are scaled to unit length inside
    gives_state: bool  # the result is (output, last state)


def fast_program(
    file: Path, class_name: str | None, *, d_model: int, n_heads: int, default_class: str = ""
) -> FastProgram:
    """The program of a file on the operators where that computes the same, else as it was written.

    `d_model` and `n_heads` are those of the comparison. Leaves the global random generator as it was.
    """
    written = load_mixer_class(file, class_name, default_class=default_class)
    fast = load_mixer_class(file, class_name, default_class=default_class)
    with torch.random.fork_rng(devices=[]), float64_everywhere():
        swaps = swap_in(sys.modules[fast.__module__])
        if not swaps:
            return FastProgram(program=written, path="as_written", swaps=(), reason="no function of it is an operator")
        reason = _why_not(written, fast, d_model=d_model, n_heads=n_heads)
    if reason:
        return FastProgram(program=written, path="as_written", swaps=(), reason=reason)
    return FastProgram(program=fast, path="kernels", swaps=swaps)


def swap_in(program: ModuleType) -> tuple[Swap, ...]:
    """Replace the functions of an imported program that compute an operator; draws from the global generator."""
    swaps = []
    for name, function in list(vars(program).items()):
        if not callable(function) or isinstance(function, type) or function.__module__ != program.__name__:
            continue
        operator, replacement = _recognised(function)
        if replacement is not None:
            setattr(program, name, replacement)
            swaps.append(Swap(function=name, operator=operator))
    return tuple(swaps)


def deviation(
    written: type[nn.Module], fast: type[nn.Module], *, d_model: int, n_heads: int, length: int = 70
) -> float:
    """Largest relative difference between two classes in output and every gradient, with the same weights."""
    one, other = (build_mixer(cls, d_model=d_model, n_heads=n_heads, layer_idx=0) for cls in (written, fast))
    other.load_state_dict(one.state_dict())
    x = torch.randn(_BATCH, _LENGTHS[-1], d_model)
    results = []
    for module in (one, other):
        inputs = x.clone().requires_grad_()
        output = mix(module, inputs)
        wanted = [inputs, *module.parameters()]
        gradients = torch.autograd.grad(output.square().sum(), wanted, allow_unused=True)
        results.append([output, *(torch.zeros(()) if one is None else one for one in gradients)])
    return max(_difference(found, expected) for expected, found in zip(*results, strict=True))


def _why_not(written: type[nn.Module], fast: type[nn.Module], *, d_model: int, n_heads: int) -> str:
    """Why the module cannot run on the operators; empty where it can."""
    try:
        found = deviation(written, fast, d_model=d_model, n_heads=n_heads)
    except Exception as error:  # a call that the replacement does not take, or the program's own failure
        return f"the module fails on the operators: {type(error).__name__}"
    return "" if found <= TOLERANCE else f"the module differs by {found:.1e} on the operators, more than rounding"


def _recognised(function: Callable[..., Any]) -> tuple[str, Callable[..., Any] | None]:
    """The operator that the function computes and what stands for it; ("", None) where it computes none."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return "", None
    names = tuple(one.name for one in parameters if one.default is one.empty)
    # what has a default of a whole number is a chunk length, which changes time and memory only
    if any(not isinstance(one.default, int) for one in parameters if one.default is not one.empty):
        return "", None
    if names[:4] == _MEMORY and (len(names) == 4 or (len(names) == 5 and names[4] in _DECAYS)):
        return _as_memory(function, names)
    if len(names) == 2 and names[0] == "x" and len(parameters) == 2 and _agree(function, causal_conv, _filter_inputs):
        return "causal_conv", causal_conv
    return "", None


def _as_memory(function: Callable[..., Any], names: tuple[str, ...]) -> tuple[str, Callable[..., Any] | None]:
    for flags in product((False, True), repeat=4):
        form = _Form(heads_first=flags[0], scalar_axis=flags[1], normalises=flags[2], gives_state=flags[3])
        replacement = _memory_operator(form, inspect.signature(function), names)
        if _agree(function, replacement, partial(_memory_inputs, form, len(names))):
            return "delta_rule" if len(names) == 4 else "gated_delta_rule", replacement
    return "", None


def _memory_operator(form: _Form, signature: inspect.Signature, names: tuple[str, ...]) -> Callable[..., Any]:
    """The delta rule, gated where a decay is among the names, called as the function of that signature."""

    def on_operator(*arguments: Any, **named: Any) -> Tensor | tuple[Tensor, Tensor]:
        bound = signature.bind(*arguments, **named).arguments
        tensors = [bound[name] for name in names]
        q, k, v, *scalars = (x.transpose(1, 2) for x in tensors) if form.heads_first else tensors
        scalars = [x.squeeze(-1) if x.ndim == q.ndim else x for x in scalars]
        q, k = (_unit(x) for x in (q, k)) if form.normalises else (q, k)
        operator = delta_rule_chunk_with_state if len(scalars) == 1 else gated_delta_rule_chunk_with_state
        result = operator(q, k, v, *scalars, scale=1.0)
        output = result.output.transpose(1, 2) if form.heads_first else result.output
        return (output, result.state) if form.gives_state else output

    return on_operator


def _unit(x: Tensor) -> Tensor:
    """As l2norm of flash-linear-attention, which programs call."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def _memory_inputs(form: _Form, count: int, length: int) -> tuple[Tensor, ...]:
    """Random arguments in the form; q and k of length 0.5 to 1, so that a function that normalises them shows it."""
    shape = (_BATCH, length, _HEADS)
    q, k = (F.normalize(torch.randn(*shape, _WIDTH), dim=-1) * (0.5 + 0.5 * torch.rand(*shape, 1)) for _ in range(2))
    scalars = [torch.rand(shape), -torch.rand(shape)][: count - 3]
    if form.scalar_axis:
        scalars = [x.unsqueeze(-1) for x in scalars]
    tensors = (q, k, torch.randn(*shape, _WIDTH), *scalars)
    return tuple(x.transpose(1, 2).contiguous() for x in tensors) if form.heads_first else tensors


def _filter_inputs(length: int) -> tuple[Tensor, ...]:
    return torch.randn(_BATCH, length, _WIDTH), torch.randn(_WIDTH, 5)


def _agree(
    function: Callable[..., Any], operator: Callable[..., Any], inputs: Callable[[int], tuple[Tensor, ...]]
) -> bool:
    """Whether both give equal results and gradients, up to rounding, at every length."""
    for length in _LENGTHS:
        arguments = [x.requires_grad_() for x in inputs(length)]
        try:
            expected, found = _results(operator, arguments), _results(function, arguments)
        except Exception:  # what a function of a program raises on arguments in another form than its own is its own
            return False
        if len(expected) != len(found) or not all(map(_is_equal, found, expected)):
            return False
    return True


def _results(function: Callable[..., Any], arguments: list[Tensor]) -> list[Tensor]:
    """Every output, and the gradients of one weighted sum of them."""
    returned = function(*arguments)
    outputs = list(returned) if isinstance(returned, tuple) else [returned]
    weighted = [(output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum() for output in outputs]
    gradients = torch.autograd.grad(sum(weighted[1:], weighted[0]), arguments, allow_unused=True)
    return [*outputs, *(torch.zeros(()) if one is None else one for one in gradients)]


def _is_equal(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and _difference(found, expected) <= TOLERANCE


def _difference(found: Tensor, expected: Tensor) -> float:
    """Relative difference in the Frobenius norm; infinite where one is not finite."""
    apart = ((found - expected).norm() / (expected.norm() + 1e-6)).detach().item()
    return apart if math.isfinite(apart) else math.inf

"""Programs as a model writes them, on the operators of kernels/: a function that computes the same is replaced by one.

A function counts as a delta rule if its parameters are named like q, k, v and beta (and a decay) and it agrees, in
float64 and in every gradient, with `kernels.delta_rule` or `kernels.gated_delta_rule` on random inputs of several
lengths, in one of the layouts in use; as a causal filter if it agrees with `kernels.causal_conv`, as a mixture of paths
if it agrees with `kernels.fir_mix`. All that was found stays only if the whole mixer agrees as well. Names say where to
look, numbers decide: a wrong result is never faster.
B batch, T tokens, H heads, d width of a head, D of all.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from arch_search.models.loading import mix
from arch_search.models.stand_in import float64_everywhere
from kernels.causal_conv.fast import causal_conv
from kernels.delta_rule.fast import delta_rule
from kernels.fir_mix.fast import fir_mix
from kernels.gated_delta_rule.fast import gated_delta_rule

ROLES: Mapping[str, frozenset[str]] = {
    "q": frozenset({"q", "query", "queries"}),
    "k": frozenset({"k", "key", "keys"}),
    "v": frozenset({"v", "value", "values"}),
    "beta": frozenset({"beta", "betas", "b", "write_strength"}),
    "decay": frozenset({"g", "log_g", "gk", "decay", "log_decay", "alpha", "gate"}),
}
FILTERED = frozenset({"x", "v"})  # first of the two parameters of a filter
MIXTURE = ("v", "filters", "paths", "weights")  # before the weight of the norm
LENGTHS = (1, 33, 97)  # below and beside the usual chunks of 16, 32 and 64, none of them a multiple
WHOLE_LENGTH = 70  # of the test of the whole mixer
FIRST_LENGTH = 5  # tells most forms apart at little cost
TOLERANCE = 1e-9  # relative, in float64: another order of summation gives 1e-13
EPSILON = 1e-6  # of the unit length of q and k, as fla and our seed program have it
_B, _H, _D, _TAPS = 3, 2, 4, 6  # all different, so that a wrong layout shows

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a program calls its delta rule: axes of its arguments, and what it does to them before the memory."""

    heads_first: bool  # [B, H, T, d] instead of [B, T, H, d]
    scalar_axis: bool  # beta and decay end with an axis of size 1
    unit: bool  # q and k are scaled to unit length inside
    scaled: bool  # q is scaled by d ** -0.5
    log_decay: bool | None  # the decay is a logarithm; None: there is no decay

    def computed(self, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor | None) -> Tensor:
        """What the program's function computes of its own arguments, by the operator."""
        q, k, v = (x.transpose(1, 2) if self.heads_first else x for x in (q, k, v))
        if self.unit:
            q, k = _unit(q), _unit(k)
        scale = None if self.scaled else 1.0
        if decay is None or self.log_decay is None:
            output = delta_rule(q, k, v, self._plain(beta), scale=scale)
        else:
            log_g = self._plain(decay) if self.log_decay else self._plain(decay).log()
            output = gated_delta_rule(q, k, v, self._plain(beta), log_g, scale=scale)
        return output.transpose(1, 2) if self.heads_first else output

    def arguments(self, probe: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A probe in this form, each a leaf that takes gradients. The keys are the roles."""
        given = {}
        for role, x in probe.items():
            is_scalar = x.ndim == 3
            if role == "decay" and not self.log_decay:
                x = x.exp()
            x = x.transpose(1, 2) if self.heads_first else x
            given[role] = (x.unsqueeze(-1) if is_scalar and self.scalar_axis else x).clone().requires_grad_()
        return given

    def _plain(self, scalars: Tensor) -> Tensor:
        scalars = scalars.squeeze(-1) if self.scalar_axis else scalars
        return scalars.transpose(1, 2) if self.heads_first else scalars


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """A function of a program and what stands in for it."""

    function: str
    operator: str  # a folder of kernels/
    form: Form | None  # of a delta rule
    stand_in: Function


def replacements(program: ModuleType) -> tuple[Replacement, ...]:
    """The functions of an imported program that an operator may stand in for. Runs the program's code.

    The random generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        found = (_replacement(name, value) for name, value in list(vars(program).items()))
        return tuple(one for one in found if one is not None)


def verified(
    program: ModuleType, chosen: tuple[Replacement, ...], mixer: nn.Module, *, d_model: int
) -> tuple[Replacement, ...]:
    """`chosen`, if a mixer of the program gives the same output and gradients with it, in float64; else nothing."""
    if not chosen:
        return ()
    try:
        written = _measured(mixer, d_model)
        with replaced(program, chosen):
            by_operators = _measured(mixer, d_model)
    except Exception:  # it cannot be copied, or does with a result what only its own function's bears
        return ()
    same = written.keys() == by_operators.keys() and all(_close(x, by_operators[name]) for name, x in written.items())
    return chosen if same else ()


@contextmanager
def replaced(program: ModuleType, chosen: tuple[Replacement, ...]) -> Iterator[None]:
    """Inside, the program calls the operators; afterwards it is as it was written."""
    written = {one.function: getattr(program, one.function) for one in chosen}
    try:
        for one in chosen:
            setattr(program, one.function, one.stand_in)
        yield
    finally:
        for name, function in written.items():
            setattr(program, name, function)


def _measured(mixer: nn.Module, d_model: int) -> dict[str, Tensor]:
    """Output of a copy of the mixer for random hidden states, and the gradients of these and of its parameters."""
    rng = torch.Generator().manual_seed(0)
    with float64_everywhere(), torch.random.fork_rng(devices=[]):
        x = torch.randn(2, WHOLE_LENGTH, d_model, generator=rng).requires_grad_()
        twin = copy.deepcopy(mixer).double().train()
        torch.manual_seed(0)  # dropout
        output = mix(twin, x)
        torch.autograd.backward((output * torch.randn(output.shape, generator=rng)).sum())
    found = {"output": output.detach(), "input": x.grad} | {name: one.grad for name, one in twin.named_parameters()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _replacement(name: str, value: object) -> Replacement | None:
    if not isinstance(value, FunctionType):
        return None
    parameters = inspect.signature(value).parameters
    roles = {role: parameter for role in ROLES if (parameter := _named(role, parameters)) is not None}
    if {"q", "k", "v", "beta"} <= roles.keys():
        form = next((form for form in _forms("decay" in roles) if _is_memory(value, roles, form)), None)
        operator = "gated_delta_rule" if "decay" in roles else "delta_rule"
        stand_in = _stand_in(value, roles, form) if form is not None else None
    else:
        form = None
        operator, stand_in = _without_state(value, parameters)
    if stand_in is None:
        return None
    return Replacement(function=name, operator=operator, form=form, stand_in=stand_in)


def _named(role: str, parameters: Mapping[str, inspect.Parameter]) -> str | None:
    """The parameter with this role; one that has a default is a choice of the program, not an input."""
    fitting = [name for name, one in parameters.items() if name in ROLES[role] and one.default is one.empty]
    return fitting[0] if len(fitting) == 1 else None


def _forms(has_decay: bool) -> Iterator[Form]:
    for heads_first, scalar_axis, unit, scaled in product((True, False), repeat=4):
        for log_decay in (True, False) if has_decay else (None,):
            yield Form(heads_first=heads_first, scalar_axis=scalar_axis, unit=unit, scaled=scaled, log_decay=log_decay)


def _is_memory(function: Function, roles: Mapping[str, str], form: Form) -> bool:
    """Whether the function computes a delta rule in this form, at every length."""

    def written(given: Mapping[str, Tensor]) -> Any:
        return function(**{roles[role]: x for role, x in given.items()})

    def operator(given: Mapping[str, Tensor]) -> Tensor:
        return form.computed(*(given.get(role) for role in ROLES))  # type: ignore[arg-type]

    def drawn(length: int, rng: torch.Generator) -> dict[str, Tensor]:
        return form.arguments(_probe(length, rng, has_decay="decay" in roles))

    return all(_is_same(written, operator, partial(drawn, T)) for T in (FIRST_LENGTH, *LENGTHS))


def _without_state(function: Function, parameters: Mapping[str, inspect.Parameter]) -> tuple[str, Function | None]:
    """The filter or the mixture that the function computes."""
    names = tuple(parameters)
    if any(one.default is not one.empty for one in parameters.values()):
        return "", None
    if len(names) == 2 and names[0] in FILTERED and _is_filter(function):
        return "causal_conv", causal_conv
    if len(names) == 5 and names[:4] == MIXTURE and _is_mixture(function):
        return "fir_mix", _mixture
    return "", None


def _is_filter(function: Function) -> bool:
    """Whether it filters x [B, T, D] by taps [D, W], the last of which meets the present token."""

    def drawn(length: int, rng: torch.Generator) -> dict[str, Tensor]:
        shapes = {"x": (_B, length, _D), "taps": (_D, _TAPS)}
        return {name: torch.randn(shape, generator=rng).requires_grad_() for name, shape in shapes.items()}

    return all(
        _is_same(lambda given: function(*given.values()), lambda given: causal_conv(*given.values()), partial(drawn, T))
        for T in LENGTHS
    )


def _mixture(v: Tensor, filters: Sequence[Tensor], paths: Sequence[Tensor], weights: Tensor, scale: Tensor) -> Tensor:
    """Filters [D, W] of the values [B, T, H, d], further paths and the values by their weights, then RMSNorm."""
    return fir_mix(v, [taps.view(*v.shape[2:], -1) for taps in filters], paths, weights, scale)


def _is_mixture(function: Function) -> bool:
    """Whether it computes `_mixture`, with two filters and with none."""

    def drawn(filters: int, length: int, rng: torch.Generator) -> dict[str, Tensor]:
        shape = (_B, length, _H)
        shapes = {"v": (*shape, _D), "path": (*shape, _D), "weights": (*shape, filters + 2), "scale": (_D,)}
        shapes |= {f"filter {number}": (_H * _D, _TAPS - number) for number in range(filters)}
        return {name: torch.randn(size, generator=rng).requires_grad_() for name, size in shapes.items()}

    def call(mixture: Function, given: Mapping[str, Tensor]) -> Any:
        filters = [x for name, x in given.items() if name.startswith("filter")]
        return mixture(given["v"], filters, [given["path"]], given["weights"], given["scale"])

    return all(
        _is_same(partial(call, function), partial(call, _mixture), partial(drawn, filters, T))
        for filters, T in product((0, 2), LENGTHS)
    )


def _is_same(
    written: Callable[[Mapping[str, Tensor]], Any],
    operator: Callable[[Mapping[str, Tensor]], Tensor],
    drawn: Callable[[torch.Generator], dict[str, Tensor]],
) -> bool:
    """Whether both give the same output and gradients, in float64, for the same random inputs."""
    with float64_everywhere():
        given, twin = (drawn(torch.Generator().manual_seed(1)) for _ in range(2))
        try:
            found = _output(written(given))
        except Exception:  # whatever a function of the program raises on arguments that it was not written for
            return False
        expected = operator(twin)
        if not isinstance(found, Tensor) or not _close(found, expected) or not found.requires_grad:
            return False
        weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
        torch.autograd.backward((found * weight).sum())
        torch.autograd.backward((expected * weight).sum())
    return all(_close(given[name].grad, twin[name].grad) for name in given)


def _probe(length: int, rng: torch.Generator, *, has_decay: bool) -> dict[str, Tensor]:
    """Random inputs [B, T, H, d] and [B, T, H] of the roles; keys shorter than one, so that no memory blows up."""
    q, k, v = (torch.randn(_B, length, _H, _D, generator=rng) for _ in range(3))
    beta, log_g = (torch.rand(_B, length, _H, generator=rng) for _ in range(2))
    inputs = {"q": q, "k": 0.9 * _unit(k), "v": v, "beta": 0.1 + 0.8 * beta}
    return {**inputs, "decay": -0.01 - 0.5 * log_g} if has_decay else inputs


def _close(written: Tensor | None, expected: Tensor | None) -> bool:
    if written is None or expected is None or written.shape != expected.shape:
        return False
    return bool((written - expected).norm() <= TOLERANCE * expected.norm())


def _output(returned: object) -> object:
    return returned[0] if isinstance(returned, tuple) and returned else returned


def _stand_in(written: Function, roles: Mapping[str, str], form: Form) -> Function:
    """The operator with the signature of the program's function.

    A call that says more than the roles and whole numbers (a chunk size), as with a mask or a first state, goes to the
    function as it was written.
    """
    signature = inspect.signature(written)
    probe = form.arguments(_probe(1, torch.Generator(), has_decay="decay" in roles))
    returned = written(**{roles[role]: x for role, x in probe.items()})

    def on_operator(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs).arguments
        for name in bound.keys() - roles.values():
            says_nothing = type(bound[name]) is int or bound[name] is signature.parameters[name].default
            if not says_nothing:
                return written(*args, **kwargs)
        output = form.computed(*(bound.get(roles.get(role, "")) for role in ROLES))  # type: ignore[arg-type]
        # a last state that the program returns beside the output is used by caches alone, which training has not
        return (output, *[None] * (len(returned) - 1)) if isinstance(returned, tuple) else output

    return on_operator


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPSILON)

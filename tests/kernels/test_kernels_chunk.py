"""Every fast operator against its token-by-token definition: output, last state and every gradient."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.causal_conv.fast import causal_conv
from kernels.causal_conv.naive import causal_conv_naive
from kernels.common import Result
from kernels.delta_rule.chunk import delta_rule_chunk, delta_rule_chunk_with_state
from kernels.delta_rule.naive import delta_rule_naive
from kernels.gated_delta_rule.chunk import gated_delta_rule_chunk, gated_delta_rule_chunk_with_state
from kernels.gated_delta_rule.naive import gated_delta_rule_naive
from kernels.gated_linear_attention.chunk import gated_linear_attention_chunk, gated_linear_attention_chunk_with_state
from kernels.gated_linear_attention.naive import gated_linear_attention_naive
from kernels.linear_attention.chunk import linear_attention_chunk, linear_attention_chunk_with_state
from kernels.linear_attention.naive import linear_attention_naive
from kernels.softmax_attention.fast import softmax_attention
from kernels.softmax_attention.naive import softmax_attention_naive
from kernels.ssd.chunk import ssd_chunk, ssd_chunk_with_state
from kernels.ssd.naive import ssd_naive

B, H, K, V = 2, 3, 8, 5
CHUNK = 64
LENGTHS = [1, 63, 64, 65, 130]  # below, at and beside the chunk
# both sides sum the same products in another order: some 1e3 roundings of 1e-7 (float32) or 1e-16 (float64)
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-11}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    naive: Callable[..., Result]
    with_state: Callable[..., Result]
    output_only: Callable[..., Tensor]
    inputs: Callable[[int, torch.dtype], dict[str, Tensor]]


def qkv(T: int, dtype: torch.dtype) -> dict[str, Tensor]:
    q, k, v = (torch.randn(B, T, H, width, dtype=dtype) for width in (K, K, V))
    return {"q": q, "k": F.normalize(k, dim=-1), "v": v}


def beta(T: int, dtype: torch.dtype) -> Tensor:
    return 2 * torch.rand(B, T, H, dtype=dtype)


def log_g(*shape: int, dtype: torch.dtype) -> Tensor:
    # from no decay at all to forgetting within one token
    return -torch.rand(*shape, dtype=dtype) * torch.logspace(-4, 1, shape[-1], dtype=dtype)


def ssd_inputs(T: int, dtype: torch.dtype) -> dict[str, Tensor]:
    b, c = (torch.randn(B, T, 1, K, dtype=dtype) for _ in range(2))
    x, dt = torch.randn(B, T, H, V, dtype=dtype), torch.rand(B, T, H, dtype=dtype)
    return {"x": x, "dt": dt, "a": -torch.rand(H, dtype=dtype) * 16, "b": b, "c": c}


OPERATORS = {
    "linear_attention": Operator(
        naive=linear_attention_naive,
        with_state=linear_attention_chunk_with_state,
        output_only=linear_attention_chunk,
        inputs=qkv,
    ),
    "gated_linear_attention per head": Operator(
        naive=gated_linear_attention_naive,
        with_state=gated_linear_attention_chunk_with_state,
        output_only=gated_linear_attention_chunk,
        inputs=lambda T, dtype: qkv(T, dtype) | {"log_g": log_g(B, T, H, dtype=dtype)},
    ),
    "gated_linear_attention per channel": Operator(
        naive=gated_linear_attention_naive,
        with_state=gated_linear_attention_chunk_with_state,
        output_only=gated_linear_attention_chunk,
        inputs=lambda T, dtype: qkv(T, dtype) | {"log_g": log_g(B, T, H, K, dtype=dtype)},
    ),
    "delta_rule": Operator(
        naive=delta_rule_naive,
        with_state=delta_rule_chunk_with_state,
        output_only=delta_rule_chunk,
        inputs=lambda T, dtype: qkv(T, dtype) | {"beta": beta(T, dtype)},
    ),
    "gated_delta_rule": Operator(
        naive=gated_delta_rule_naive,
        with_state=gated_delta_rule_chunk_with_state,
        output_only=gated_delta_rule_chunk,
        inputs=lambda T, dtype: qkv(T, dtype) | {"beta": beta(T, dtype), "log_g": log_g(B, T, H, dtype=dtype)},
    ),
    "ssd": Operator(naive=ssd_naive, with_state=ssd_chunk_with_state, output_only=ssd_chunk, inputs=ssd_inputs),
}
EVERY_OPERATOR = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())


def values_and_gradients(
    function: Callable[..., Result], inputs: dict[str, Tensor], state: Tensor | None, weights: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    if state is not None:
        leaves["initial_state"] = state.clone().requires_grad_()
    result = function(**leaves)
    (result.output * weights[0]).sum().add((result.state * weights[1]).sum()).backward()
    gradients = {f"gradient of {name}": x.grad for name, x in leaves.items() if x.grad is not None}
    assert len(gradients) == len(leaves)
    return {"output": result.output.detach(), "state": result.state.detach(), **gradients}


def assert_same(expected: dict[str, Tensor], got: dict[str, Tensor], tolerance: float) -> None:
    for name, value in expected.items():
        size = value.abs().max().clamp(min=1.0)
        assert (value - got[name]).abs().max() <= tolerance * size, name


@EVERY_OPERATOR
@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("from_zero", [True, False])
def test_chunk_matches_naive_in_output_state_and_every_gradient(operator: Operator, T: int, from_zero: bool) -> None:
    torch.manual_seed(T)
    inputs = operator.inputs(T, torch.float64)
    state = None if from_zero else torch.randn(B, H, K, V, dtype=torch.float64)
    weights = (torch.randn(B, T, H, V, dtype=torch.float64), torch.randn(B, H, K, V, dtype=torch.float64))
    expected = values_and_gradients(operator.naive, inputs, state, weights)
    got = values_and_gradients(partial(operator.with_state, chunk=CHUNK), inputs, state, weights)
    assert_same(expected, got, TOLERANCE[torch.float64])


@EVERY_OPERATOR
def test_chunk_in_float32_stays_near_naive(operator: Operator) -> None:
    torch.manual_seed(0)
    inputs = operator.inputs(130, torch.float32)
    weights = (torch.randn(B, 130, H, V), torch.randn(B, H, K, V))
    expected = values_and_gradients(operator.naive, inputs, None, weights)
    assert_same(expected, values_and_gradients(operator.with_state, inputs, None, weights), TOLERANCE[torch.float32])


@EVERY_OPERATOR
def test_comparison_with_naive_rejects_a_changed_input(operator: Operator) -> None:
    torch.manual_seed(0)
    inputs = operator.inputs(65, torch.float64)
    weights = (torch.randn(B, 65, H, V, dtype=torch.float64), torch.randn(B, H, K, V, dtype=torch.float64))
    expected = values_and_gradients(operator.naive, inputs, None, weights)
    last = list(inputs)[-1]
    got = values_and_gradients(operator.with_state, inputs | {last: inputs[last] * 1.001}, None, weights)
    with pytest.raises(AssertionError):
        assert_same(expected, got, TOLERANCE[torch.float64])


@EVERY_OPERATOR
@pytest.mark.parametrize("chunk", [8, 16, 32, 64])
def test_chunk_size_does_not_change_the_output(operator: Operator, chunk: int) -> None:
    torch.manual_seed(0)
    inputs = operator.inputs(70, torch.float64)
    torch.testing.assert_close(
        operator.output_only(**inputs, chunk=chunk), operator.naive(**inputs).output, rtol=0, atol=1e-11
    )


@EVERY_OPERATOR
def test_two_calls_joined_by_the_state_equal_one(operator: Operator) -> None:
    torch.manual_seed(0)
    inputs = operator.inputs(100, torch.float64)
    first = {name: x if x.ndim == 1 else x[:, :37] for name, x in inputs.items()}
    second = {name: x if x.ndim == 1 else x[:, 37:] for name, x in inputs.items()}
    start = operator.with_state(**first)
    rest = operator.with_state(**second, initial_state=start.state)
    joined = torch.cat([start.output, rest.output], dim=1)
    torch.testing.assert_close(joined, operator.output_only(**inputs), rtol=0, atol=1e-11)


@EVERY_OPERATOR
def test_later_tokens_do_not_move_earlier_outputs(operator: Operator) -> None:
    torch.manual_seed(0)
    inputs = operator.inputs(100, torch.float64)
    changed = {name: x if x.ndim == 1 else torch.cat([x[:, :40], 30 * x[:, 40:]], dim=1) for name, x in inputs.items()}
    if "beta" in changed:
        changed["beta"] = changed["beta"].clamp(max=2.0)
        changed["k"] = F.normalize(changed["k"], dim=-1)
    before, after = operator.output_only(**inputs), operator.output_only(**changed)
    torch.testing.assert_close(before[:, :40], after[:, :40], rtol=0, atol=1e-11)
    assert not torch.allclose(before[:, 40:], after[:, 40:])


@EVERY_OPERATOR
def test_bfloat16_inputs_give_bfloat16_output_and_a_float32_state(operator: Operator) -> None:
    torch.manual_seed(0)
    inputs = {name: x.bfloat16() for name, x in operator.inputs(65, torch.float32).items()}
    result = operator.with_state(**inputs)
    assert (result.output.dtype, result.state.dtype) == (torch.bfloat16, torch.float32)


@EVERY_OPERATOR
def test_forward_and_backward_run_under_bfloat16_autocast(operator: Operator) -> None:
    torch.manual_seed(0)
    inputs = {name: x.requires_grad_() for name, x in operator.inputs(65, torch.float32).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        operator.output_only(**inputs).float().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in inputs.values())


@pytest.mark.parametrize("name", ["gated_linear_attention per head", "gated_linear_attention per channel"])
def test_total_forgetting_gives_finite_outputs_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    inputs = OPERATORS[name].inputs(130, torch.float32)
    inputs["log_g"] = torch.full_like(inputs["log_g"], -300.0)
    leaves = {key: x.clone().requires_grad_() for key, x in inputs.items()}
    OPERATORS[name].output_only(**leaves).sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in leaves.values())


@pytest.mark.parametrize("T", LENGTHS)
def test_softmax_attention_matches_naive_in_output_and_every_gradient(T: int) -> None:
    torch.manual_seed(T)
    results = []
    inputs, weight = qkv(T, torch.float64), torch.randn(B, T, H, V, dtype=torch.float64)
    for function in (softmax_attention_naive, softmax_attention):
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
        output = function(**leaves, scale=0.7)
        (output * weight).sum().backward()
        results.append({"output": output.detach()} | {name: x.grad for name, x in leaves.items() if x.grad is not None})
    assert len(results[1]) == 4
    assert_same(results[0], results[1], TOLERANCE[torch.float64])


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("taps", [1, 4, 9])
@pytest.mark.parametrize("given", [(), ("bias", "history")])
def test_causal_conv_matches_naive_in_output_and_every_gradient(T: int, taps: int, given: tuple[str, ...]) -> None:
    torch.manual_seed(T)
    inputs = {"x": torch.randn(B, T, K), "weight": torch.randn(K, taps)}
    optional = {"bias": torch.randn(K), "history": torch.randn(B, taps - 1, K)}
    inputs = {name: x.double() for name, x in (inputs | {name: optional[name] for name in given}).items()}
    weight = torch.randn(B, T, K, dtype=torch.float64)
    results = []
    for function in (causal_conv_naive, causal_conv):
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
        output = function(**leaves)
        (output * weight).sum().backward()
        results.append({"output": output.detach()} | {name: x.grad for name, x in leaves.items() if x.grad is not None})
    assert len(results[1]) == 1 + len(inputs)
    if taps == 1:  # an empty history has an empty gradient
        results[0].pop("history", None)
    assert_same(results[0], results[1], TOLERANCE[torch.float64])


def test_kernels_import_without_triton_and_without_the_rest_of_the_project() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import kernels.ssd.chunk, kernels.gated_delta_rule.chunk, kernels.causal_conv.layer\n"
        "import kernels.delta_rule.chunk, kernels.linear_attention.chunk, kernels.softmax_attention.fast\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('arch_search', 'slurm', 'cognition_db')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"

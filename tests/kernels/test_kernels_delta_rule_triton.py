"""The Triton kernels of the delta rule and the gated one: equal to the definition, causal, and refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import with_fla
from kernels.delta_rule.fast import delta_rule
from kernels.delta_rule.naive import delta_rule_naive
from kernels.delta_rule.triton import CHUNK, delta_rule_triton
from kernels.dispatch import UnsupportedError, recorded_choices
from kernels.gated_delta_rule.fast import gated_delta_rule
from kernels.gated_delta_rule.naive import gated_delta_rule_naive
from kernels.gated_delta_rule.triton import gated_delta_rule_triton

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# relative size of the difference. float32: another order of summation. bfloat16: the operands of every product are
# rounded to 8 bits, 4e-3 each; the interpreter cuts them off, which is twice as far
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-2}
LENGTHS = [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1]
Kernel = Callable[..., Tensor]


def inputs(
    T: int, D: int, dtype: torch.dtype, *, gated: bool, B: int = 1, H: int = 2, decay: float = 1.0
) -> dict[str, Tensor]:
    """Decays from nearly none to forgetting within a few tokens, times `decay`; beta up to 2."""
    torch.manual_seed(T + D)
    q, k, v = (torch.randn(B, T, H, D, device=DEVICE) for _ in range(3))
    found = {"q": q, "k": F.normalize(k, dim=-1), "v": v, "beta": 2 * torch.rand(B, T, H, device=DEVICE)}
    if gated:
        speeds = torch.logspace(-4, 0.5, T, device=DEVICE)[None, :, None]
        found["log_g"] = -decay * torch.rand(B, T, H, device=DEVICE) * speeds
    return {name: x.to(dtype) for name, x in found.items()}


def kernel(gated: bool) -> Kernel:
    return gated_delta_rule_triton if gated else delta_rule_triton


def values(function: Callable[..., Any], given: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = {name: x.detach().requires_grad_() for name, x in given.items()}
    output = function(**leaves)
    output = getattr(output, "output", output)
    rng = torch.Generator().manual_seed(1)
    weight = torch.randn(output.shape, generator=rng).to(output)
    gradients = torch.autograd.grad(output, list(leaves.values()), weight)
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}


def assert_same(given: dict[str, Tensor], **how: Any) -> dict[str, Tensor]:
    gated = "log_g" in given
    naive = gated_delta_rule_naive if gated else delta_rule_naive
    expected = values(lambda **x: naive(**x, **how), {name: x.double() for name, x in given.items()})
    found = values(lambda **x: kernel(gated)(**x, **how), given)
    for name, one in expected.items():
        assert found[name].dtype == given["v"].dtype
        error = (found[name].double() - one).norm() / one.norm().clamp(min=1e-20)
        assert error <= TOLERANCE[given["v"].dtype], f"{name} is off by {error:.2g}"
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("D", [32, 64])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("T", LENGTHS)
def test_output_and_every_gradient_are_those_of_the_definition(T: int, gated: bool, D: int, dtype: torch.dtype) -> None:
    assert_same(inputs(T, D, dtype, gated=gated))


def test_batch_rows_scale_and_heads_of_unequal_width() -> None:
    given = inputs(CHUNK + 3, 32, torch.float32, gated=True, B=2)
    given["v"] = torch.randn(*given["v"].shape[:3], 64, device=DEVICE)
    assert_same(given, scale=0.3)


def test_queries_and_keys_may_be_wider_numbers_than_values_as_autocast_leaves_them() -> None:
    given = inputs(CHUNK + 1, 32, torch.float32, gated=True)
    given["v"] = given["v"].bfloat16()
    found, like = (values(kernel(True), x) for x in (given, {name: x.bfloat16() for name, x in given.items()}))
    assert {name: x.dtype for name, x in found.items()} == {"output": torch.bfloat16} | {
        name: x.dtype for name, x in given.items()
    }
    for name, one in like.items():
        assert (found[name].float() - one.float()).norm() <= TOLERANCE[torch.bfloat16] * one.float().norm(), name


@pytest.mark.parametrize("decay", [0.0, 100.0])
def test_no_decay_and_total_forgetting_within_a_chunk(decay: float) -> None:
    found = assert_same(inputs(CHUNK + 5, 32, torch.float32, gated=True, decay=decay))
    assert all(x.isfinite().all() for x in found.values())


def test_equal_keys_written_with_twice_the_strength_do_not_blow_up() -> None:
    given = inputs(2 * CHUNK, 32, torch.float32, gated=False)
    given["k"] = given["k"][:, :1].expand_as(given["k"]).contiguous()
    given["beta"] = torch.full_like(given["beta"], 2.0)
    assert_same(given)


def test_views_that_are_not_contiguous_are_read_as_they_are() -> None:
    given = inputs(CHUNK + 1, 32, torch.float32, gated=True)
    apart = {name: torch.stack([x, -x], dim=-1)[..., 0] for name, x in given.items()}
    assert not apart["q"].is_contiguous()
    assert torch.equal(kernel(True)(**apart), kernel(True)(**given))


def test_every_element_that_is_given_back_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    empty_like, new_empty = torch.empty_like, Tensor.new_empty
    monkeypatch.setattr(torch, "empty_like", lambda x: empty_like(x).fill_(torch.nan))
    monkeypatch.setattr(Tensor, "new_empty", lambda x, *sizes, **how: new_empty(x, *sizes, **how).fill_(torch.nan))
    assert_same(inputs(CHUNK + 5, 32, torch.float32, gated=True))
    assert_same(inputs(CHUNK + 5, 32, torch.float32, gated=False))


def fresh(name: str, x: Tensor, scale: float) -> Tensor:
    """Other inputs, large ones too, but keys of unit length: where a sum overflows, 0 * inf hides what is causal."""
    if name in ("beta", "log_g"):
        return torch.rand_like(x) * (-1 if name == "log_g" else 1)
    drawn = torch.randn_like(x)
    return F.normalize(drawn, dim=-1) if name == "k" else scale * drawn


def leak(function: Kernel, given: dict[str, Tensor]) -> str:
    """Where an output follows from something later or of another row or head; empty where it does nowhere."""
    before = function(**given)
    T = before.shape[1]
    for cut in (CHUNK - 1, CHUNK, T - 1):
        changed = {name: x.clone() for name, x in given.items()}
        for name, x in changed.items():
            x[:, cut:] = fresh(name, x, 30.0)[:, cut:]
        if not torch.equal(function(**changed)[:, :cut], before[:, :cut]):
            return f"tokens from {cut} on move earlier outputs"
        if not torch.equal(function(**{name: x[:, :cut] for name, x in given.items()}), before[:, :cut]):
            return f"the first {cut} tokens alone give other outputs"
    for axis, what in ((0, "row"), (2, "head")):
        changed = {name: x.clone() for name, x in given.items()}
        for x in changed.values():
            x.select(axis, 1).mul_(0.5)
        if not torch.equal(function(**changed).select(axis, 0), before.select(axis, 0)):
            return f"another {what} moves outputs"
    return ""


CASES = [
    pytest.param(32, CHUNK + 2, 2, 2),
    pytest.param(
        64, 2048, 4, 8,
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")],
    ),
]  # fmt: skip


@pytest.mark.parametrize("D, T, B, H", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gated", [False, True])
def test_no_output_follows_from_the_future_or_from_another_row_or_head(
    gated: bool, dtype: torch.dtype, D: int, T: int, B: int, H: int
) -> None:
    assert leak(kernel(gated), inputs(T, D, dtype, gated=gated, B=B, H=H)) == ""


@pytest.mark.parametrize(
    "leaking, words",
    [
        (lambda q, k, v, beta: delta_rule_triton(q, k, v.roll(-1, 1), beta), "earlier outputs"),
        (lambda q, k, v, beta: delta_rule_triton(q, k, v, beta) * q.shape[1], "alone give other outputs"),
        (lambda q, k, v, beta: delta_rule_triton(q, k, v + v.mean(0, keepdim=True), beta), "another row"),
        (lambda q, k, v, beta: delta_rule_triton(q, k, v + v.mean(2, keepdim=True), beta), "another head"),
    ],
)
def test_the_search_for_leaks_finds_planted_ones(leaking: Kernel, words: str) -> None:
    assert words in leak(leaking, inputs(CHUNK + 2, 32, torch.float32, gated=False, B=2))


@pytest.mark.slow
def test_the_kernels_compile_for_an_h200_onto_its_matrix_units_with_few_spills() -> None:
    script = Path(__file__).with_name("compile_delta_rule.py")
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, str(script), "32", "64"], env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found_all = json.loads(done.stdout)
    assert len(found_all) == 8
    for found in found_all:
        assert found["matrix_instructions"] > 0
        # reported to be compiled wrongly where an operand is transposed
        assert found["warpgroup_instructions"] == 0
        assert found["spilled_bytes"] <= (256 if found["kernel"] == "input_gradient_kernel" else 0), found
        # as many programs on a multiprocessor as 256 heads give it, and more
        assert found["shared_bytes"] <= 48 * 1024


def test_two_runs_give_the_same_bits() -> None:
    given = inputs(CHUNK + 3, 32, torch.bfloat16, gated=True)
    first, second = (values(kernel(True), given) for _ in range(2))
    assert all(torch.equal(one, second[name]) for name, one in first.items())


@pytest.mark.parametrize(
    "change, words",
    [
        ({"q": (1, 4, 2, 48), "k": (1, 4, 2, 48)}, r"q is \[1, 4, 2, 48\], the Triton kernel supports .* D 32 or 64"),
        ({"v": (1, 4, 2, 16)}, r"v is \[1, 4, 2, 16\], the Triton kernel supports"),
        ({"beta": (1, 4, 1)}, r"beta is \[1, 4, 1\], the Triton kernel supports \[1, 4, 2\]"),
        ({"k": (1, 5, 2, 32)}, r"k is \[1, 5, 2, 32\]"),
    ],
)
def test_shapes_that_the_kernel_does_not_support_are_refused_in_one_line(
    change: dict[str, tuple[int, ...]], words: str
) -> None:
    given = inputs(4, 32, torch.float32, gated=False)
    given |= {name: torch.zeros(shape, device=DEVICE) for name, shape in change.items()}
    with pytest.raises(UnsupportedError, match=words):
        delta_rule_triton(**given)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedError, match="the Triton kernel supports float32 and bfloat16"):
        gated_delta_rule_triton(**inputs(4, 32, dtype, gated=True))


def test_on_a_cpu_the_dispatchers_take_chunks_and_say_why() -> None:
    with recorded_choices() as choices:
        for gated, function in ((False, delta_rule), (True, gated_delta_rule)):
            given = {name: x.cpu() for name, x in inputs(9, 32, torch.float32, gated=gated).items()}
            naive = gated_delta_rule_naive if gated else delta_rule_naive
            torch.testing.assert_close(function(**given, scale=0.5), naive(**given, scale=0.5).output)
    assert [(one.operator, one.path) for one in choices] == [("delta_rule", "chunk"), ("gated_delta_rule", "chunk")]
    assert {one.reason for one in choices} == {"tensor on cpu, the Triton kernel supports cuda"}


def test_what_flash_linear_attention_cannot_take_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = torch.zeros(1, 4, 2, 128)
    assert "v is float32, flash-linear-attention supports" in with_fla.refusal(wide)
    monkeypatch.setattr(with_fla, "is_installed", lambda: False)
    assert "arch-search[fla]" in with_fla.refusal(wide.bfloat16())
    monkeypatch.setattr(with_fla, "is_installed", lambda: True)
    assert with_fla.refusal(wide.bfloat16()) == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("D", [32, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gated", [False, True])
def test_at_full_size_on_a_gpu(gated: bool, dtype: torch.dtype, D: int) -> None:
    assert_same(inputs(2048, D, dtype, gated=gated, B=8, H=8))


@pytest.mark.gpu
@pytest.mark.skipif(not (torch.cuda.is_available() and with_fla.is_installed()), reason="needs a GPU and fla")
@pytest.mark.parametrize("gated", [False, True])
def test_heads_of_128_on_flash_linear_attention_are_those_of_the_definition(gated: bool) -> None:
    given = inputs(130, 128, torch.bfloat16, gated=gated)
    function, naive = (gated_delta_rule, gated_delta_rule_naive) if gated else (delta_rule, delta_rule_naive)
    with recorded_choices() as choices:
        found = function(**given)
    expected = naive(**{name: x.float() for name, x in given.items()}).output
    assert [one.path for one in choices] == ["fla"]
    assert (found.float() - expected).norm() <= TOLERANCE[torch.bfloat16] * expected.norm()

"""The bank of filters with its mixture: every version against the definition, causality, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.dispatch import Choice, UnsupportedError, recorded_choices
from kernels.fir_mix.chunk import fir_mix_chunk, path_statistics_chunk
from kernels.fir_mix.fast import fir_mix, path_statistics
from kernels.fir_mix.inputs import PathStatistics
from kernels.fir_mix.naive import fir_mix_naive, path_statistics_naive
from kernels.fir_mix.triton import fir_mix_triton
from kernels.fir_mix.triton_statistics import path_statistics_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# the same products summed in another order; bfloat16 also rounds the mixture and its gradient once on the way
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}
Function = Callable[..., Tensor]
Inputs = dict[str, Any]  # tensors, and lists of tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One set of shapes; a tile of the kernel holds 128 tokens for V up to 32 and 64 for V = 128."""

    T: int
    taps: tuple[int, ...]
    given: int = 1
    norm: bool = True
    dtype: torch.dtype = torch.float32
    mixed: bool = False  # filters, weights and norm_weight in float32, as autocast leaves them
    B: int = 1
    H: int = 1
    V: int = 4

    def __str__(self) -> str:
        name = f"{str(self.dtype)[6:]} B{self.B} T{self.T} H{self.H} V{self.V} taps {self.taps} given {self.given}"
        return f"{name}{' norm' if self.norm else ''}{' mixed' if self.mixed else ''}"


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """Memory that is allocated and not written holds NaN, in outputs as in what lies between."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def inputs_of(case: Case) -> Inputs:
    torch.manual_seed(case.T)
    v = torch.randn(case.B, case.T, case.H, case.V)
    inputs: Inputs = {
        "v": v,
        "filters": [torch.randn(case.H, case.V, length) / length**0.5 for length in case.taps],
        "paths": [torch.randn_like(v) for _ in range(case.given)],
        "weights": torch.rand(*v.shape[:3], len(case.taps) + case.given + 1),
    }
    if case.norm:
        inputs["norm_weight"] = torch.rand(case.V) + 0.5
    narrow = mapped(inputs, lambda x: x.to(DEVICE, case.dtype))
    wide = mapped(inputs, lambda x: x.to(DEVICE))
    return narrow if not case.mixed else wide | {name: narrow[name] for name in ("v", "paths")}


def statistics_inputs_of(case: Case) -> Inputs:
    return {name: one for name, one in inputs_of(case).items() if name in ("v", "filters", "paths")}


def statistics(operator: Callable[..., PathStatistics]) -> Function:
    """The three side by side in one tensor."""

    def call(**inputs: Any) -> Tensor:
        found = operator(**inputs)
        return torch.cat([found.mean, found.variance, found.mean_abs], dim=-1)

    return call


def mapped(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    return {name: [change(x) for x in one] if isinstance(one, list) else change(one) for name, one in inputs.items()}


def outputs_and_gradients(function: Function, inputs: Inputs) -> dict[str, Tensor]:
    """In float64, for a fixed random gradient of the output."""
    leaves = mapped(inputs, lambda x: x.detach().clone().requires_grad_())
    output = function(**leaves)
    torch.manual_seed(0)
    (output * torch.randn(output.shape).to(output)).sum().backward()
    found = {"output": output}
    for name, one in leaves.items():
        found |= {f"{name} {i}": x.grad for i, x in enumerate(one)} if isinstance(one, list) else {name: one.grad}
    return {name: x.detach().double() for name, x in found.items()}


def assert_same(function: Function, reference: Function, inputs: Inputs) -> None:
    expected = outputs_and_gradients(reference, mapped(inputs, lambda x: x.double()))
    found = outputs_and_gradients(function, inputs)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = (found[name] - value).abs().max() / value.abs().max()
        assert difference <= TOLERANCE[inputs["v"].dtype], name


CHUNK_CASES = [
    Case(T=1, taps=(3, 7), B=2, H=2, dtype=torch.float64),
    Case(T=20, taps=(1, 5, 25, 31), B=2, H=3, V=5, given=0, dtype=torch.float64),
    Case(T=70, taps=(3, 64), B=2, given=2, norm=False, dtype=torch.float64),
    Case(T=70, taps=(5, 63), H=2, V=8),
    Case(T=40, taps=(3, 31), H=2, V=8, dtype=torch.bfloat16),
]


@pytest.mark.parametrize("case", CHUNK_CASES, ids=str)
def test_chunk_matches_naive_in_output_and_every_gradient(case: Case) -> None:
    assert fir_mix_chunk(**inputs_of(case)).dtype == case.dtype
    assert_same(fir_mix_chunk, fir_mix_naive, inputs_of(case))


@pytest.mark.parametrize("case", CHUNK_CASES, ids=str)
def test_chunk_matches_naive_in_the_statistics_and_their_gradients(case: Case) -> None:
    inputs = statistics_inputs_of(case)
    assert path_statistics_chunk(**inputs).mean.dtype == torch.promote_types(case.dtype, torch.float32)
    assert_same(statistics(path_statistics_chunk), statistics(path_statistics_naive), inputs)


KERNEL_CASES = [
    Case(T=127, taps=(3, 7), B=2),
    Case(T=128, taps=(3, 5), H=2, given=0, norm=False),
    Case(T=129, taps=(3, 12), H=2, given=2),
    Case(T=9, taps=(1, 2, 4, 25), B=2, H=2, V=5, given=0),
    Case(T=20, taps=(3, 31), H=2, V=8, dtype=torch.bfloat16, mixed=True),
    Case(T=20, taps=(64,), given=0, norm=False, dtype=torch.bfloat16),
    # channels of the gradients in two parts, the second not full; rows of the tile fewer than 32
    Case(T=65, taps=(6,), H=2, V=40),
    # sums for a filter from two programs a batch row
    Case(T=530, taps=(3,), given=0, norm=False, V=1),
]


@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
def test_the_kernel_matches_naive_in_output_and_every_gradient(case: Case) -> None:
    assert fir_mix_triton(**inputs_of(case)).dtype == case.dtype
    assert_same(fir_mix_triton, fir_mix_naive, inputs_of(case))


STATISTICS_CASES = [
    Case(T=129, taps=(3, 7)),
    Case(T=20, taps=(2, 12), H=2, V=5, given=2),
    Case(T=20, taps=(5,), given=0, V=40, dtype=torch.bfloat16, mixed=True),
]


@pytest.mark.parametrize("case", STATISTICS_CASES, ids=str)
def test_the_kernel_matches_naive_in_the_statistics_and_their_gradients(case: Case) -> None:
    inputs = statistics_inputs_of(case)
    assert path_statistics_triton(**inputs).mean.dtype == torch.float32
    assert_same(statistics(path_statistics_triton), statistics(path_statistics_naive), inputs)


def test_the_comparison_rejects_a_filter_whose_last_tap_is_one_token_late() -> None:
    def late(v: Tensor, filters: list[Tensor], paths: list[Tensor], weights: Tensor, norm_weight: Tensor) -> Tensor:
        return fir_mix_chunk(v, [taps.roll(1, dims=2) for taps in filters], paths, weights, norm_weight)

    with pytest.raises(AssertionError, match="output"):
        assert_same(late, fir_mix_naive, inputs_of(CHUNK_CASES[0]))


def test_memory_that_is_not_written_is_seen() -> None:
    assert torch.empty(3).isnan().all()
    with pytest.raises(AssertionError, match="output"):
        assert_same(
            lambda v, **rest: fir_mix_naive(v, **rest) + 0 * torch.empty_like(v),
            fir_mix_naive,
            inputs_of(CHUNK_CASES[0]),
        )


def test_gradients_that_nobody_asks_for_do_not_change_the_others() -> None:
    inputs = inputs_of(Case(T=9, taps=(3, 5), V=2))
    everything = outputs_and_gradients(fir_mix_triton, inputs)
    leaf = inputs["filters"][1].clone().requires_grad_()
    output = fir_mix_triton(**inputs | {"filters": [inputs["filters"][0], leaf]})
    torch.manual_seed(0)
    (output * torch.randn(output.shape).to(output)).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.double().equal(everything["filters 1"])


def assert_causal(function: Function, inputs: Inputs, *, seen: int) -> None:
    """The first `seen` outputs are bit-equal whatever comes later, NaN too, and whatever the other batch rows hold."""
    whole = function(**inputs)[:, :seen]

    def with_nan_after(x: Tensor) -> Tensor:
        return torch.cat([x[:, :seen], torch.full_like(x[:, seen:], torch.nan)], dim=1) if x.ndim == 4 else x

    assert function(**mapped(inputs, with_nan_after))[:, :seen].equal(whole), "later tokens"
    shorter = mapped(inputs, lambda x: x[:, :seen] if x.ndim == 4 else x)
    assert function(**shorter).equal(whole), "prefix"
    alone = mapped(inputs, lambda x: x[:1] if x.ndim == 4 else x)
    assert function(**alone)[:, :seen].equal(whole[:1]), "batch rows"
    leaf = inputs["v"].clone().requires_grad_()
    function(**inputs | {"v": leaf})[:, :seen].float().sum().backward()
    assert leaf.grad is not None
    assert not leaf.grad[:, seen:].any(), "gradient"
    assert leaf.grad[:, :seen].any()


CAUSAL_CASES = [
    Case(T=20, taps=(3, 11), B=2, dtype=torch.float32),
    Case(T=20, taps=(3, 11), B=2, norm=False, given=0, dtype=torch.bfloat16),
]


@pytest.mark.parametrize("case", CAUSAL_CASES, ids=str)
@pytest.mark.parametrize("function", [fir_mix_chunk, fir_mix_triton])
def test_no_output_depends_on_later_tokens_or_other_batch_rows(function: Function, case: Case) -> None:
    assert_causal(function, inputs_of(case), seen=13)


@pytest.mark.parametrize("operator", [path_statistics_chunk, path_statistics_triton])
def test_no_statistic_depends_on_later_tokens_or_other_batch_rows(operator: Callable[..., PathStatistics]) -> None:
    assert_causal(statistics(operator), statistics_inputs_of(CAUSAL_CASES[0]), seen=13)


def one_token_ahead(v: Tensor, **rest: Any) -> Tensor:
    return fir_mix_chunk(torch.cat([v[:, 1:], v[:, :1]], dim=1), **rest)


def mean_of_rows(v: Tensor, **rest: Any) -> Tensor:
    return fir_mix_chunk(v + 1e-3 * v.mean(0), **rest)


@pytest.mark.parametrize(("leak", "words"), [(one_token_ahead, "later tokens"), (mean_of_rows, "batch rows")])
def test_the_check_of_causality_rejects_a_leak(leak: Function, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        assert_causal(leak, inputs_of(CAUSAL_CASES[0]), seen=13)


def test_an_output_after_the_window_has_forgotten_a_nan() -> None:
    inputs = inputs_of(Case(T=20, taps=(3, 6), norm=False))
    inputs["v"][:, 4] = torch.nan
    isnan = fir_mix_triton(**inputs).isnan().flatten(2).any(2)[0]
    assert isnan.tolist() == [4 <= t <= 9 for t in range(20)]


REFUSALS = {
    "dtype float64, the Triton kernel supports float32 and bfloat16": Case(T=4, taps=(3,), dtype=torch.float64),
    "dtype float16, the Triton kernel supports float32 and bfloat16": Case(T=4, taps=(3,), dtype=torch.float16),
    "129 taps, the Triton kernel supports 1 to 128": Case(T=4, taps=(3, 129)),
    "head width 129, the Triton kernel supports 1 to 128": Case(T=4, taps=(3,), V=129),
    "no filters, the Triton kernel supports 1 or more": Case(T=4, taps=()),
}


@pytest.mark.parametrize(("line", "case"), REFUSALS.items(), ids=REFUSALS)
def test_what_the_kernel_does_not_support_it_refuses_by_one_line(line: str, case: Case) -> None:
    with pytest.raises(UnsupportedError) as caught:
        fir_mix_triton(**inputs_of(case))
    assert str(caught.value) == f"fir_mix: {line}"


def test_the_statistics_are_refused_on_the_same_terms() -> None:
    with pytest.raises(UnsupportedError, match="fir_mix: 129 taps, the Triton kernel supports 1 to 128"):
        path_statistics_triton(**statistics_inputs_of(Case(T=4, taps=(129,))))


def test_on_a_cpu_the_dispatcher_takes_the_plain_path_and_says_why() -> None:
    inputs = mapped(inputs_of(Case(T=4, taps=(3,))), lambda x: x.cpu())
    with recorded_choices() as choices:
        output = fir_mix(**inputs)
    reason = "tensor on cpu, the Triton kernel supports cuda"
    assert choices == [Choice(operator="fir_mix", path="chunk", reason=reason)]
    assert output.equal(fir_mix_chunk(**inputs))


@pytest.mark.parametrize(
    ("taps", "path", "reason"),
    [((3,), "triton", ""), ((3, 129), "chunk", "129 taps, the Triton kernel supports 1 to 128")],
)
def test_where_triton_runs_the_dispatcher_takes_it_unless_the_kernel_refuses(
    monkeypatch: pytest.MonkeyPatch, taps: tuple[int, ...], path: str, reason: str
) -> None:
    monkeypatch.setattr("kernels.fir_mix.fast.triton_refusal", lambda *tensors: "")  # the interpreter stands in
    case = Case(T=4, taps=taps)
    with recorded_choices() as choices:
        assert_same(fir_mix, fir_mix_naive, inputs_of(case))
        assert_same(statistics(path_statistics), statistics(path_statistics_naive), statistics_inputs_of(case))
    assert choices == [Choice(operator="fir_mix", path=path, reason=reason)]


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("v", (1, 4, 4), r"v has shape \[1, 4, 4\], expected \[B, T, H, V\]"),
        ("v", (1, 0, 2, 3), r"each 1 or more"),
        ("weights", (1, 4, 2, 3), r"expected \[1, 4, 2, 4\]: 2 filters, 1 paths, identity"),
        ("norm_weight", (4,), r"expected \[3\]"),
    ],
)
@pytest.mark.parametrize("function", [fir_mix_chunk, fir_mix_triton])
def test_shapes_that_do_not_belong_together_are_errors(
    function: Function, name: str, shape: tuple[int, ...], words: str
) -> None:
    inputs = inputs_of(Case(T=4, taps=(3, 5), H=2, V=3))
    with pytest.raises(ValueError, match=words):
        function(**inputs | {name: torch.zeros(shape)})
    with pytest.raises(ValueError, match=r"filter 1 has shape \[2, 4, 5\], expected \[2, 3, taps >= 1\]"):
        function(**inputs | {"filters": [inputs["filters"][0], torch.zeros(2, 4, 5)]})
    with pytest.raises(ValueError, match=r"path 0 has shape \[1, 5, 2, 3\]"):
        function(**inputs | {"paths": [torch.zeros(1, 5, 2, 3)]})


@pytest.mark.slow
def test_the_kernels_compile_for_an_h200_and_spill_next_to_nothing() -> None:
    script = Path(__file__).with_name("compile_fir_mix.py")
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, str(script)], env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    # forward, gradient, gradient of v and of each of two filters, for the mixture and for the statistics
    assert len(found) == 2 * 10
    assert max(one["local_bytes"] for one in found) <= 32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", [True, False])
def test_at_full_size_on_a_gpu(dtype: torch.dtype, norm: bool) -> None:
    case = Case(T=2047, taps=(3, 64), B=32, H=8, V=32, norm=norm, dtype=dtype)
    assert_same(fir_mix_triton, fir_mix_chunk, inputs_of(case))
    assert_causal(fir_mix_triton, inputs_of(case), seen=1000)
    assert_same(statistics(path_statistics_triton), statistics(path_statistics_chunk), statistics_inputs_of(case))
    first, again = (outputs_and_gradients(fir_mix_triton, inputs_of(case)) for _ in range(2))
    assert all(first[name].equal(again[name]) for name in first)

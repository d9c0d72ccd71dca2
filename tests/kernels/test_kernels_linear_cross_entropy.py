"""Cross-entropy of a linear layer's logits: both fast versions against the definition, in value and both gradients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kernels.dispatch import UnsupportedError, recorded_choices
from kernels.linear_cross_entropy.chunk import linear_cross_entropy_chunk
from kernels.linear_cross_entropy.fast import linear_cross_entropy
from kernels.linear_cross_entropy.naive import IGNORED, linear_cross_entropy_naive
from kernels.linear_cross_entropy.triton import Tiles, linear_cross_entropy_triton

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KEPT = Tiles(tokens=16, vocab=32, width=64, part=64, warps=4)  # rows of x are loaded once
ONCE_A_TILE = Tiles(tokens=16, vocab=32, width=16, part=64, warps=4)
# float32: the same sums in another order. bfloat16: gradients of logits are rounded to 8 bits before the products
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float64: 1e-12}


def inputs(N: int, D: int, V: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(N + V)
    x, weight = torch.randn(N, D, device=DEVICE), torch.randn(V, D, device=DEVICE) * D**-0.5
    return x.to(dtype), weight.to(dtype), torch.randint(V, (N,), device=DEVICE)


def values(function: Callable[..., Tensor], x: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Loss and gradients, times a factor as a caller may put on the loss."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    loss = function(x, weight, targets)
    return (loss.detach(), *torch.autograd.grad(3 * loss, [x, weight]))


def assert_same(function: Callable[..., Tensor], x: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    wide = torch.promote_types(x.dtype, torch.float32)
    expected = values(linear_cross_entropy_naive, x.to(wide), weight.to(wide), targets)
    found = values(function, x, weight, targets)
    for name, one, other in zip(("loss", "gradient of x", "gradient of weight"), expected, found, strict=True):
        error = (one - other).norm() / one.norm().clamp(min=1e-20)
        assert error <= TOLERANCE[x.dtype], f"{name} is off by {error:.2g}"
    return found


FAST = {
    "chunk": partial(linear_cross_entropy_chunk, chunk=16),
    # the gradients of 16 of its tokens are held at once
    "rows kept": partial(linear_cross_entropy_triton, tiles=KEPT, scratch_bytes=16 * 128 * 4),
    "rows once a tile": partial(linear_cross_entropy_triton, tiles=ONCE_A_TILE, scratch_bytes=16 * 128 * 4),
}
EVERY_FAST = pytest.mark.parametrize("function", FAST.values(), ids=FAST.keys())


@EVERY_FAST
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("N, D, V", [(1, 16, 7), (16, 48, 64), (35, 64, 101)])  # below, at and beside the tiles
def test_loss_and_gradients_are_those_of_the_definition(
    function: Callable[..., Tensor], dtype: torch.dtype, N: int, D: int, V: int
) -> None:
    assert_same(function, *inputs(N, D, V, dtype))


def test_chunks_are_exact_in_float64() -> None:
    assert_same(FAST["chunk"], *inputs(35, 24, 101, torch.float64))


@EVERY_FAST
def test_ignored_targets_count_neither_in_the_mean_nor_in_a_gradient(function: Callable[..., Tensor]) -> None:
    x, weight, targets = inputs(35, 32, 50, torch.float32)
    targets[::3] = IGNORED
    _, grad_x, _ = assert_same(function, x, weight, targets)
    assert (grad_x[::3] == 0).all()
    assert (grad_x[1::3] != 0).any(1).all()


@EVERY_FAST
def test_where_all_targets_are_ignored_loss_and_gradients_are_zero(function: Callable[..., Tensor]) -> None:
    x, weight, targets = inputs(20, 32, 50, torch.float32)
    for one in (function, linear_cross_entropy_naive):
        assert all((value == 0).all() for value in values(one, x, weight, torch.full_like(targets, IGNORED)))


@EVERY_FAST
def test_huge_logits_do_not_overflow(function: Callable[..., Tensor]) -> None:
    x, weight, targets = inputs(20, 32, 50, torch.float32)
    x[3] *= 1e4
    x[4] *= -1e4
    assert values(linear_cross_entropy_naive, x, weight, targets)[0] > 100
    assert_same(function, x, weight, targets)


@EVERY_FAST
def test_micro_batches_with_the_count_of_the_whole_add_up_to_it(function: Callable[..., Tensor]) -> None:
    x, weight, targets = inputs(40, 32, 50, torch.float32)
    targets[:7] = IGNORED
    count = (targets != IGNORED).sum()
    parts = [function(x[rows], weight, targets[rows], count=count) for rows in (slice(0, 10), slice(10, 40))]
    assert torch.isclose(parts[0] + parts[1], linear_cross_entropy_naive(x, weight, targets), rtol=1e-5)


def test_every_element_that_is_given_back_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *sizes, **how: empty(*sizes, **how).fill_(torch.nan))
    monkeypatch.setattr(torch, "empty_like", lambda x: empty_like(x).fill_(torch.nan))
    for function in FAST.values():
        assert_same(function, *inputs(35, 48, 101, torch.float32))


def test_two_runs_give_the_same_bits() -> None:
    first, second = (values(FAST["rows kept"], *inputs(35, 48, 101, torch.bfloat16)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_target_that_is_no_word_makes_the_loss_of_the_kernel_nan() -> None:
    x, weight, targets = inputs(20, 32, 50, torch.float32)
    targets[5] = 50
    assert FAST["rows kept"](x, weight, targets).isnan()


@EVERY_FAST
def test_the_gradient_of_x_is_the_same_where_the_head_has_none(function: Callable[..., Tensor]) -> None:
    x, weight, targets = inputs(20, 32, 50, torch.float32)
    expected = values(linear_cross_entropy_naive, x, weight, targets)[1] / 3
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(leaf, weight, targets), [leaf])
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "x, weight, words",
    [
        ((4, 20), (8, 20), "width 20, the Triton kernel supports multiples of 16 up to 1024"),
        ((4, 2048), (8, 2048), "width 2048"),
        ((4, 32), (8, 16), r"shapes \[4, 32\], \[8, 16\], \[4\]"),
        ((0, 32), (8, 32), "no tokens"),
    ],
)
def test_what_the_kernel_does_not_support_is_refused_in_one_line(
    x: tuple[int, int], weight: tuple[int, int], words: str
) -> None:
    targets = torch.zeros(x[0], dtype=torch.int64)
    with pytest.raises(UnsupportedError, match=words):
        linear_cross_entropy_triton(torch.randn(x), torch.randn(weight), targets)


def test_other_dtypes_are_refused() -> None:
    targets = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(UnsupportedError, match="supports float32 or bfloat16 for both"):
        linear_cross_entropy_triton(torch.randn(4, 32).half(), torch.randn(8, 32).half(), targets)


def test_on_a_cpu_the_dispatcher_takes_chunks_and_says_why() -> None:
    x, weight, targets = (one.cpu() for one in inputs(20, 32, 50, torch.float32))
    with recorded_choices() as choices:
        linear_cross_entropy(x, weight, targets)
    assert [(one.path, one.reason) for one in choices] == [("chunk", "tensor on cpu, the Triton kernel supports cuda")]


@pytest.mark.slow
def test_the_kernels_compile_for_an_h200_without_spills_onto_its_matrix_units() -> None:
    script = Path(__file__).with_name("compile_linear_cross_entropy.py")
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, str(script), "256", "1024"], env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found_all = json.loads(done.stdout)
    assert len(found_all) == 4
    for found in found_all:
        assert found["shared_bytes"] <= 227 * 1024
        assert found["local_bytes"] == 0
        assert found["matrix_instructions"] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("D", [256, 320, 1024])
def test_at_full_size_on_a_gpu(dtype: torch.dtype, D: int) -> None:
    assert_same(linear_cross_entropy_triton, *inputs(4097, D, 50_257, dtype))

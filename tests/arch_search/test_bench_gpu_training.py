"""The rows of `make bench-gpu` that train: a tiny model on the CPU, alone and beside another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from arch_search.domains.linear_attention.seed_program import DeltaNet
from tests.benchmarks import gpu_timing
from tests.benchmarks.gpu import train
from tests.benchmarks.gpu.packing import PackingRow, rates_in
from tests.benchmarks.gpu.train import COMPILED, KERNELS, WRITTEN, Size, TrainRow, as_written, both
from tests.benchmarks.gpu_timing import Ceilings

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here (apt install g++)")
TINY = Size(width=32, layers=1, heads=2, feed_forward=48, micro_batch=2, sequences=3, length=32, vocab=50)


class Other(DeltaNet):
    """Not what is written: the values are added once more."""

    def mix_paths(self, o: Tensor, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return o + v


class Gate(nn.Module):
    """As little to compile as there can be."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.ones(hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate


def row(other: type[nn.Module]) -> TrainRow:
    variants = {WRITTEN: lambda: as_written("seed_program"), KERNELS: lambda: other}
    return TrainRow(name="tiny", size=TINY, variants=variants, over_first=5.0, over_limit=2.0)


def test_two_equal_programs_are_timed_and_stand_against_the_roofline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_timing, "STEADY", 100.0)  # a busy machine is no reason to print no ratio here
    lines = {line.variant: line for line in row(as_written("seed_program")).lines(CPU)}
    assert list(lines) == [WRITTEN, KERNELS, "roofline"]
    assert lines[WRITTEN].median is not None
    assert lines[WRITTEN].ratio is not None
    assert 0.2 < lines[WRITTEN].ratio < 5
    assert lines["roofline"].ratio is not None
    assert lines["roofline"].ratio > 10  # no roofline is reached with 96 tokens on a CPU


def test_the_winner_runs_on_kernels_and_says_which_path_they_took_here() -> None:
    winner = TrainRow(name="tiny", size=TINY, variants=both("path_gate_fusion_net"))
    lines = {line.variant: line for line in winner.lines(CPU)}
    assert list(lines) == [WRITTEN, KERNELS, "roofline"]
    assert lines[KERNELS].median is not None
    assert "linear_cross_entropy ran on chunk: tensor on cpu" in lines[KERNELS].note


@pytest.mark.slow
@needs_compiler
@pytest.mark.xdist_group("compiler")
def test_a_variant_is_compiled_and_stands_against_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_timing, "STEADY", 100.0)
    monkeypatch.setattr(train, "COMPILE_S", 600)
    made: dict[str, Callable[[], type[nn.Module]]] = {name: lambda: Gate for name in (KERNELS, COMPILED)}
    lines = {line.variant: line for line in TrainRow(name="tiny", size=TINY, variants=made).lines(CPU)}
    assert "blocks ran compiled" in lines[COMPILED].note
    assert lines[KERNELS].ratio is not None


def test_a_program_that_computes_something_else_is_reported_and_not_timed() -> None:
    lines = {line.variant: line for line in row(Other).lines(CPU)}
    assert lines[KERNELS].is_failure
    assert "wrong, not timed: gradient off by" in lines[KERNELS].note
    assert lines[KERNELS].median is None
    assert lines[WRITTEN].ratio is None


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="no program no_such"):
        as_written("no_such")


def test_the_roofline_adds_the_layers_memory_and_the_heads_products() -> None:
    size = replace(TINY, width=256, layers=8, feed_forward=680, vocab=50_257)
    # 8 layers of 43 passes, three times over, and 6 V d operations: 122 ns and 98 ns at the rates of an H200
    limit = size.limit(Ceilings(copy_bytes=4.3e12, matrix_flops=790e12, vector_flops=60e12))
    assert limit == pytest.approx(1 / (122.9e-9 + 97.7e-9), rel=0.01)


def test_rates_count_the_share_of_a_step_in_a_window() -> None:
    # steps of 1 s and of 2 s with 10 tokens each: 10 + 5 tokens a second
    ticks = [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.5, 2.5, 4.5]]
    assert rates_in(ticks, [1.0, 2.5, 4.0], tokens=10) == pytest.approx([15.0, 15.0])


@pytest.mark.slow
def test_trainings_side_by_side_are_counted_together() -> None:
    packed = PackingRow(
        name="tiny", program="seed_program", size=TINY, together=(1, 2), windows=3, window_s=0.5, over_alone=2.0
    )
    lines = {line.variant: line for line in packed.lines(CPU)}
    assert list(lines) == ["1 process", "2 processes", "most"]
    assert all(line.median for line in lines.values())
    assert lines["1 process"].note == "1.00 of one"

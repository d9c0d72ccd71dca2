"""What `make bench-gpu` does with rows, where no GPU is needed: two small functions compared and timed on the CPU."""

from __future__ import annotations

import importlib
import json
import sys
import time
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.benchmarks import bench_gpu, gpu_table, gpu_timing
from tests.benchmarks.gpu_rows import Function, Inputs, KernelRow, Line, Variant, Work

CPU = torch.device("cpu")


def plain(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y).tanh()


def slow(x: Tensor, y: Tensor) -> Tensor:
    for _ in range(8):
        out = (x @ y).tanh()
    return out


def inputs(device: torch.device) -> Inputs:
    return {name: torch.randn(96, 96, device=device) for name in ("x", "y")}


def row(**changes: Any) -> KernelRow:
    product = 2.0 * 96**3
    given: dict[str, Any] = {
        "name": "product",
        "shape": "96 x 96",
        "dtype": torch.float32,
        "make_inputs": inputs,
        "gradients": ("x", "y"),
        "reference": plain,
        "variants": (Variant(name="ours", make=lambda: plain), Variant(name="eager", make=lambda: slow)),
        "work": {"forward": Work(bytes=3 * 4 * 96**2, vector_flops=product), "both": Work(bytes=1, vector_flops=3)},
        "tolerance": 1e-5,
        "targets": {"forward": {"eager": 1.5, "floor": 1e9}, "both": {"eager": 1e9, "floor": 1e-9}},
    }
    return KernelRow(**(given | changes))


def ours(function: Function) -> tuple[Variant, ...]:
    return (Variant(name="ours", make=lambda: function), Variant(name="eager", make=lambda: plain))


def lines_of(one: KernelRow, variant: str) -> list[Line]:
    return [line for line in one.lines(CPU) if line.variant == variant]


def test_a_faster_variant_is_timed_and_its_targets_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_timing, "STEADY", 100.0)  # a busy machine is no reason to print no ratio here
    lines = list(row().lines(CPU))
    forward = {line.variant: line for line in lines if line.row.endswith("float32, forward")}
    both = {line.variant: line for line in lines if line.row.endswith("forward and backward")}
    assert forward["ours"].median is not None
    assert forward["eager"].ratio is not None
    assert 1.5 < forward["eager"].ratio < 30
    assert [gpu_table.verdict(forward[name]) for name in ("ours", "eager", "floor")] == ["", "met", "met"]
    assert [gpu_table.verdict(both[name]) for name in ("eager", "floor")] == ["missed", "missed"]
    assert not any(line.is_failure for line in lines)


@pytest.mark.parametrize(
    "wrong, part",
    [
        (lambda x, y: 1.001 * plain(x, y), "output 0 is off"),
        (lambda x, y: plain(x, y.detach()) + 0 * y, "gradient of y is off"),
        (lambda x, y: plain(x, y) * torch.nan, "output 0 is off by nan"),
        (lambda x, y: plain(x, y)[:1], "strict|shape"),
    ],
)
def test_a_wrong_result_is_reported_and_never_timed(wrong: Function, part: str) -> None:
    lines = lines_of(row(variants=ours(wrong)), "ours")
    assert [line.median for line in lines[:1]] == [None]
    assert lines[0].is_failure
    assert any(word in lines[0].note for word in part.split("|")), lines[0].note
    assert all(line.median is None for line in lines)


def test_two_runs_that_differ_are_a_wrong_result() -> None:
    runs = count()
    lines = lines_of(row(variants=ours(lambda x, y: plain(x, y) * (1 + 1e-6 * (next(runs) % 2)))), "ours")
    assert "two runs" in lines[0].note
    assert lines[0].is_failure


def test_a_library_that_is_not_there_is_named_and_its_target_not_measured() -> None:
    def missing() -> Function:
        return importlib.import_module("no_such_library").function

    peers = (*ours(plain), Variant(name="fla", make=missing))
    lines = lines_of(row(variants=peers, targets={"forward": {"fla": 2.0}}), "fla")
    assert "not installed (no_such_library)" in lines[0].note
    assert [gpu_table.verdict(line) for line in lines] == ["", "not measured"]
    assert not any(line.is_failure for line in lines)


def test_a_variant_that_takes_too_long_to_compile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_timing, "PREPARE_LIMIT_S", 0.2)

    def compile_for_ever() -> Function:
        while True:
            try:
                time.sleep(0.01)
            except Exception:  # as a compiler that falls back
                continue

    late = row(variants=(*ours(plain), Variant(name="compile", make=compile_for_ever)))
    assert not lines_of(late, "compile")
    assert [line.note for line in late.compiled_lines(CPU)] == ["not ready after 0 s, left out"]


def test_what_is_compiled_is_timed_beside_ours_after_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_timing, "STEADY", 100.0)
    late = row(variants=(*ours(plain), Variant(name="compile", make=lambda: slow)), targets={"both": {"compile": 1.5}})
    found = list(late.compiled_lines(CPU))
    assert [line.variant for line in found] == ["compile", "compile"]
    assert gpu_table.verdict(found[1]) == "met"


def test_times_that_spread_give_no_ratio() -> None:
    assert gpu_timing.is_steady([1.0, 1.0, 1.05, 1.1, 1.1])
    assert not gpu_timing.is_steady([1.0, 1.0, 1.2, 1.4, 1.5])


def test_the_floor_is_the_longest_of_bytes_and_operations() -> None:
    ceilings = gpu_timing.Ceilings(copy_bytes=4.0, matrix_flops=8.0, vector_flops=2.0)
    assert ceilings.floor_s(Work(bytes=4.0, matrix_flops=24.0, vector_flops=4.0)) == 3.0
    assert ceilings.floor_s(Work(bytes=16.0, matrix_flops=24.0)) == 4.0


def test_the_table_and_its_file_say_what_was_met_on_which_device(tmp_path: Path) -> None:
    lines = [
        Line(row="product", variant="ours", median=1.0, low=0.9, high=1.1),
        Line(row="product", variant="eager", median=3.0, low=2.9, high=3.1, ratio=3.0, target=2.5),
        Line(row="product", variant="floor", median=0.5, ratio=2.0, target=1.5, at_most=True),
        Line(row="other", variant="ours", median=1.0, low=0.9, high=1.1),
        Line(row="product", variant="fla", target=2.0),
    ]
    now = datetime(2026, 11, 21, tzinfo=UTC)
    text = [*gpu_table.head("Test GPU 9", driver="1.2", root=tmp_path, now=now), *gpu_table.table(lines)]
    path = gpu_table.write(tmp_path / "results", text, device="Test GPU 9", now=now)
    assert path.name == "gpu-test-gpu-9-2026-11-21.md"
    written = path.read_text()
    assert "Test GPU 9, driver 1.2" in written
    assert f"torch {torch.__version__}" in written
    assert written.count("product\n") == 1
    assert ">= 2.5x  met" in written
    assert "<= 1.5x  missed" in written
    assert "fla         not measured (target >= 2x)" in written


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so_and_the_exit_code_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_gpu.main([]) == 2
    assert capsys.readouterr().err == "bench-gpu: torch finds no GPU on this machine; nothing is measured\n"


def test_a_row_that_there_is_not_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_gpu.main(["no_such_row"]) == 2
    assert "no row no_such_row; there are: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "limit_s, note",
    [(0.1, "not done after its 0 s"), (100.0, "ended with exit code 1: ModuleNotFoundError: No module named")],
)
def test_a_row_that_hangs_or_crashes_ends_alone(limit_s: float, note: str) -> None:
    lines = bench_gpu.in_own_process("no_such_row", limit_s=limit_s)
    assert [line.is_failure for line in lines] == [True]
    assert note in lines[0].note


@pytest.mark.parametrize("is_failure, code", [(False, 0), (True, 1)])
def test_a_run_writes_its_table_and_fails_where_a_row_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_failure: bool, code: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Test GPU")
    monkeypatch.setattr(bench_gpu, "RESULTS", tmp_path)
    shares: list[float] = []

    def measured(name: str, *, limit_s: float) -> list[Line]:
        shares.append(limit_s)
        return [Line(row=name, variant="ours", note="a note", is_failure=is_failure)]

    monkeypatch.setattr(bench_gpu, "in_own_process", measured)
    names = bench_gpu.row_names()
    assert bench_gpu.main([]) == code
    (path,) = tmp_path.iterdir()
    assert all(f"{name}\n" in path.read_text() for name in names)
    # what a file leaves of its time is shared among those after it
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(bench_gpu.TOTAL_S, rel=0.01)


def test_lines_are_kept_as_they_come_and_those_of_a_compiler_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, other = (row(name=name, variants=(*ours(plain), Variant(name="compile", make=lambda: slow))) for name in "ab")
    monkeypatch.setitem(sys.modules, "tests.benchmarks.gpu.made_up", SimpleNamespace(ROWS=(one, other)))
    bench_gpu.write_lines("made_up", tmp_path / "lines", CPU)
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    compiled = [line["variant"] == "compile" for line in lines]
    assert sum(compiled) == 4
    assert compiled == sorted(compiled)


@pytest.mark.parametrize("name", bench_gpu.row_names())
def test_the_rows_of_every_file_are_well_formed(name: str) -> None:
    rows = importlib.import_module(f"tests.benchmarks.gpu.{name}").ROWS
    assert rows
    kernels = [one for one in rows if isinstance(one, KernelRow)]
    assert len({(one.name, one.shape, one.dtype) for one in kernels}) == len(kernels)
    for one in kernels:
        variants = [variant.name for variant in one.variants]
        assert variants[0] == "ours"
        for targets in one.targets.values():
            assert targets.keys() <= {*variants[1:], "floor"}

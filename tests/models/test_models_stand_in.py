"""A program in the published contract runs unchanged on a CPU, and float64 reaches through its hard casts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from arch_search.models.stand_in import float64_everywhere

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What a process saw that installed the stand-in; the process of the tests stays as it is."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/models/programs/run_stand_in.py")],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_published_program_returns_its_tuple_and_fills_the_cache(seen: dict[str, Any]) -> None:
    assert seen["tuple"] == [[2, 37, 32], True, True, 1, 37]


def test_half_precision_casts_become_float32_in_forward_and_in_parameters(seen: dict[str, Any]) -> None:
    assert seen["dtype"] == "torch.float32"
    assert seen["parameter_dtypes"] == ["torch.float32"]


def test_published_program_learns_in_the_language_model(seen: dict[str, Any]) -> None:
    assert seen["losses"][-1] < seen["losses"][0] - 0.3


def test_published_program_passes_the_prefix_test_in_float64_despite_its_casts(seen: dict[str, Any]) -> None:
    assert seen["prefix_dtype"] == "torch.float64"
    assert seen["prefix_distance"] < 1e-12


def test_a_masked_sequence_equals_the_sequence_alone(seen: dict[str, Any]) -> None:
    assert seen["padded_batch_distance"] < 1e-5


def test_operators_under_fla_names_equal_the_definitions(seen: dict[str, Any]) -> None:
    assert max(seen["operators"].values()) < 1e-12, seen["operators"]


def test_modules_under_fla_names_equal_what_they_are_by_definition(seen: dict[str, Any]) -> None:
    assert len(seen["modules"]) == 10
    # float32 rounding of sums of tens of numbers
    assert max(seen["modules"].values()) < 1e-5, seen["modules"]


def test_short_convolution_goes_on_from_its_cache(seen: dict[str, Any]) -> None:
    assert seen["convolution_distance"] < 1e-6


def test_an_operator_refuses_what_it_cannot_do(seen: dict[str, Any]) -> None:
    assert "no reverse" in seen["refusal"]


def test_installing_twice_adds_one_path(seen: dict[str, Any]) -> None:
    assert seen["paths"] == 1


def test_float64_everywhere_widens_every_way_to_ask_for_a_narrow_float() -> None:
    with float64_everywhere():
        x = torch.randn(3, 4)
        made: list[Tensor] = [
            x,
            x.to(torch.bfloat16),
            x.to("cpu", torch.float32),
            x.bfloat16(),
            x.float(),
            x.half(),
            x.type(torch.float32),
            x.type("torch.HalfTensor"),
            torch.zeros(3, dtype=torch.float32),
            torch.softmax(x, -1, dtype=torch.float32),
            torch.arange(3).float(),
            torch.tensor(1.5),
            x.new_zeros(2, dtype=torch.float16),
            torch.nn.Linear(2, 2, dtype=torch.bfloat16).weight,
            torch.nn.Linear(2, 2).bfloat16().weight,
        ]
        assert {y.dtype for y in made} == {torch.float64}
        assert torch.ones(2).long().dtype == torch.int64


def test_float64_everywhere_ends_with_the_block_and_after_an_error() -> None:
    with pytest.raises(RuntimeError), float64_everywhere():
        raise RuntimeError
    assert torch.ones(2).dtype == torch.float32
    assert torch.ones(2).bfloat16().dtype == torch.bfloat16


def test_without_float64_everywhere_a_hard_cast_loses_what_the_check_needs() -> None:
    x = torch.randn(3, dtype=torch.float64)
    assert (x.bfloat16().double() - x).abs().max() > 1e-9
    with float64_everywhere():
        assert torch.equal(x.bfloat16(), x)

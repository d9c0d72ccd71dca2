"""How a stage computes: in parts and narrow products, on a GPU or not, on the operators of kernels/."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from arch_search.config import Stage
from arch_search.domains.linear_attention import SEED_PROGRAM

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here (apt install g++)")
FAILED = 1


def test_a_training_in_parts_and_bfloat16_has_every_score_too(bench: Callable[..., Any], tiny_stage: Stage) -> None:
    stage = replace(tiny_stage, precision="bfloat16", micro_batch=3)
    found = bench().with_stage(stage).evaluation()
    assert found.ending == "finished", found.cause
    assert found.score("heldout_loss") == pytest.approx(5.3, abs=0.5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_stage_for_a_gpu_on_a_node_without_one_is_a_failure_of_ours(
    bench: Callable[..., Any], tiny_stage: Stage
) -> None:
    done = bench().with_stage(replace(tiny_stage, device="cuda")).run()
    assert done.returncode == FAILED
    assert "stage.device=cuda and torch finds no GPU on this node" in done.stderr


def test_the_delta_rule_of_a_program_runs_on_the_operator_where_the_stage_says_so_and_the_record_says_it(
    bench: Callable[..., Any],
) -> None:
    made, curves = bench().with_program(SEED_PROGRAM), []
    for attempt, (operators, ran) in enumerate((("as_written", None), ("kernels", "gated_delta_rule=chunk")), 1):
        shutil.rmtree(made.unit().root, ignore_errors=True)  # or the second finds the first one's measurements
        packs = (replace(made.manifest.packs[0], attempt=attempt),)
        stage = replace(made.manifest.stage, operators=operators)
        found = made.rewritten(replace(made.manifest, stage=stage, packs=packs)).evaluation()
        assert found.ending == "finished", found.cause
        assert found.versions.get("operators") == ran
        assert found.certificate is not None
        assert found.certificate.outcome == "passed", found.certificate.reason
        curves.append(found.curve_loss)
    assert curves[0] != curves[1]  # another order of summation
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


@pytest.mark.slow
@needs_compiler
@pytest.mark.xdist_group("compiler")
def test_a_stage_that_gives_torch_s_compiler_time_trains_compiled_in_the_jail_and_the_record_says_it(
    bench: Callable[..., Any], tiny_stage: Stage
) -> None:
    made, curves = bench(), []
    for attempt, (limit_s, ran) in enumerate(((0, None), (600, "blocks=compiled")), 1):
        shutil.rmtree(made.unit().root, ignore_errors=True)  # or the second finds the first one's measurements
        packs = (replace(made.manifest.packs[0], attempt=attempt),)
        stage = replace(tiny_stage, compile_s=limit_s)
        found = made.rewritten(replace(made.manifest, stage=stage, packs=packs)).evaluation()
        assert found.ending == "finished", found.cause
        assert found.versions.get("operators") == ran
        curves.append(found.curve_loss)
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)


def test_no_training_makes_torch_import_its_compiler_which_doubles_the_start(bench: Callable[..., Any]) -> None:
    found = bench("assert '_dynamo' not in vars(torch)").evaluation()
    assert found.ending == "finished", found.cause
    assert found.certificate is not None  # its mode is the one that looks last
    assert found.certificate.outcome == "passed", found.certificate.reason

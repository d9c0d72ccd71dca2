"""A program in its place of the language model: beside the mixer or as the mixer, matched in parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from arch_search.domains import domain_named
from arch_search.models.loading import load_mixer_class
from arch_search.models.mounting import Mount
from arch_search.settings import load_config

STAGE = replace(load_config(["stage=smoke"]).stage, d_model=48, n_layers=2)
LAYER = domain_named("feed_forward")

NO_WIDTH = """
from torch import nn
class FeedForward(nn.Module):
    def __init__(self, hidden_size, **kwargs):
        super().__init__()
        self.only = nn.Linear(hidden_size, hidden_size)
    def forward(self, hidden_states, **kwargs):
        return self.only(hidden_states)
"""


def mount(tmp_path: Path, text: str, domain: str = "feed_forward") -> Mount:
    program = tmp_path / "program.py"
    program.write_text(text)
    contract = domain_named(domain).contract
    loaded = load_mixer_class(program, None, default_class=contract.class_name)
    return Mount(program=loaded, contract=contract, stage=STAGE, vocab=256)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_a_feed_forward_stands_behind_the_same_mixer_in_every_layer(tmp_path: Path) -> None:
    mounted = mount(tmp_path, LAYER.seed_program)
    model = mounted.model(0)
    assert [type(one).__name__ for one in mounted.programs(model)] == ["FeedForward", "FeedForward"]
    assert {type(block.get_submodule("mixer")).__name__ for block in model.blocks} == {"DeltaNet"}
    x = torch.randint(256, (2, 10))
    before = model(x)
    mounted.programs(model)[0].get_submodule("down").weight.data.zero_()  # type: ignore[operator, union-attr]
    assert not torch.equal(model(x), before)


def test_a_token_mixer_stands_before_the_swiglu(tmp_path: Path) -> None:
    mounted = mount(tmp_path, domain_named("linear_attention").seed_program, "linear_attention")
    model = mounted.model(16)
    assert [type(one).__name__ for one in mounted.programs(model)] == ["DeltaNet", "DeltaNet"]
    assert count(model) == mounted.matched(count(model)).parameter_count
    assert mounted.matched(count(model)).feed_forward == 16


@pytest.mark.parametrize("name", ["gelu", "relu_squared", "bilinear"])
def test_every_baseline_is_matched_to_the_reference_by_its_inner_width(tmp_path: Path, name: str) -> None:
    reference = mount(tmp_path, LAYER.seed_program).matched(None)
    assert reference.feed_forward == 0
    mounted = mount(tmp_path, LAYER.baseline(name))
    matched = mounted.matched(reference.parameter_count)
    assert abs(matched.relative_difference) < 0.005
    assert count(mounted.model(matched.feed_forward)) == matched.parameter_count


def test_the_reference_is_matched_to_its_own_width(tmp_path: Path) -> None:
    mounted = mount(tmp_path, LAYER.seed_program)
    own = mounted.matched(None).parameter_count
    assert mounted.matched(own).relative_difference == 0
    assert mounted.matched(own).feed_forward == 128  # 8 / 3 of 48


def test_a_program_that_takes_no_width_keeps_its_size_and_says_by_how_much_it_differs(tmp_path: Path) -> None:
    target = mount(tmp_path, LAYER.seed_program).matched(None).parameter_count
    mounted = mount(tmp_path, NO_WIDTH)
    matched = mounted.matched(target)
    assert matched.feed_forward == 0
    assert matched.parameter_count == count(mounted.model(0))
    assert matched.relative_difference == pytest.approx(matched.parameter_count / target - 1)
    assert matched.relative_difference < -0.2

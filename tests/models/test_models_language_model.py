"""The language model around a mixer, and parameter matching."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from arch_search.models.language_model import LanguageModel
from arch_search.models.matching import match_feed_forward


class Identity(nn.Module):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states


class Wide(nn.Module):
    """A mixer with `size` parameters; counts how often it is built."""

    built = 0

    def __init__(self, size: int) -> None:
        super().__init__()
        Wide.built += 1
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states * self.weight.sum()


def language_model(make_mixer: Callable[[int], nn.Module], feed_forward: int) -> LanguageModel:
    return LanguageModel(make_mixer, vocab=50, d_model=16, n_layers=3, feed_forward=feed_forward)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("feed_forward", [0, 8, 40])
def test_logits_have_the_vocabulary_and_every_parameter_gets_a_gradient(feed_forward: int) -> None:
    model = language_model(lambda _: nn.Linear(16, 16), feed_forward)
    logits = model(torch.randint(0, 50, (2, 7)))
    logits.square().sum().backward()
    assert logits.shape == (2, 7, 50)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize("feed_forward", [0, 24])
def test_nothing_but_the_mixer_moves_information_between_tokens(feed_forward: int) -> None:
    model = language_model(lambda _: Identity(), feed_forward)
    tokens = torch.randint(0, 50, (1, 9))
    torch.testing.assert_close(model(tokens)[0, 4], model(tokens[:, 4:5])[0, 0])


def test_fresh_model_predicts_nearly_uniformly() -> None:
    torch.manual_seed(0)
    model = LanguageModel(lambda _: Identity(), vocab=256, d_model=128, n_layers=4, feed_forward=344)
    tokens = torch.randint(0, 256, (4, 64))
    loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), torch.randint(0, 256, (4 * 64,)))
    assert abs(loss.item() - 5.545) < 0.3  # log 256


@pytest.mark.parametrize("target", [None, 30_000, 40_007])
def test_the_count_of_the_match_is_that_of_the_model(target: int | None) -> None:
    matched = match_feed_forward(lambda _: Wide(100), vocab=50, d_model=16, n_layers=3, target_parameters=target)
    assert matched.parameter_count == parameters(language_model(lambda _: Wide(100), matched.feed_forward))
    assert abs(matched.relative_difference) < 0.005


def test_the_reference_width_is_near_eight_thirds_in_eights() -> None:
    matched = match_feed_forward(lambda _: Identity(), vocab=50, d_model=128, n_layers=1, target_parameters=None)
    assert (matched.feed_forward, matched.relative_difference) == (344, 0.0)


def test_matching_builds_each_layer_once() -> None:
    Wide.built = 0
    match_feed_forward(lambda _: Wide(500), vocab=50, d_model=16, n_layers=3, target_parameters=40_000)
    assert Wide.built == 3


def test_a_mixer_above_the_target_gets_the_smallest_width_and_the_difference() -> None:
    matched = match_feed_forward(lambda _: Wide(20_000), vocab=50, d_model=16, n_layers=3, target_parameters=30_000)
    assert matched.feed_forward == 8
    assert matched.relative_difference == pytest.approx(matched.parameter_count / 30_000 - 1)
    assert matched.relative_difference > 1.0


def test_layers_that_share_a_mixer_count_it_once() -> None:
    shared = Wide(1000)
    matched = match_feed_forward(lambda _: shared, vocab=50, d_model=16, n_layers=3, target_parameters=None)
    assert matched.parameter_count == parameters(language_model(lambda _: shared, matched.feed_forward))

"""Every baseline and every program of the gallery keeps the contract, is causal, and can be matched to the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from arch_search.models import baselines, gallery
from arch_search.models.language_model import LanguageModel
from arch_search.models.loading import build_mixer, load_mixer_class, mix
from arch_search.models.matching import match_feed_forward
from arch_search.models.stand_in import float64_everywhere

FILES, OF_GALLERY = (sorted(Path(str(room.__file__)).parent.glob("[a-z]*.py")) for room in (baselines, gallery))
EVERY_BASELINE = pytest.mark.parametrize("path", [*FILES, *OF_GALLERY], ids=lambda path: path.stem)


def mixer_of(path: Path, d_model: int = 32) -> nn.Module:
    torch.manual_seed(0)
    return build_mixer(load_mixer_class(path, None), d_model=d_model, n_heads=2, layer_idx=0)


def test_the_five_baselines_are_there() -> None:
    assert {path.stem for path in FILES} == {
        "gated_deltanet",
        "gated_linear_attention",
        "linear_attention",
        "mamba2",
        "softmax_attention",
    }


@EVERY_BASELINE
@pytest.mark.parametrize("B, T", [(1, 1), (3, 7), (2, 130)])
def test_baseline_keeps_the_shape_and_gives_every_parameter_a_finite_gradient(path: Path, B: int, T: int) -> None:
    mixer = mixer_of(path)
    output = mix(mixer, torch.randn(B, T, 32))
    output.square().sum().backward()
    gradients = [p.grad for p in mixer.parameters()]
    assert all(g.isfinite().all() for g in gradients if g is not None)
    # with one token a softmax has one weight and no state is read back, with one chunk nothing is retained from another
    if T > 64 or (T > 1 and path in FILES):
        assert all(g is not None and g.abs().max() > 0 for g in gradients)


@EVERY_BASELINE
def test_baseline_has_nearly_the_same_loss_and_gradient_with_products_in_bfloat16(path: Path) -> None:
    torch.manual_seed(0)
    tokens, count = torch.randint(50, (2, 41)), torch.tensor(80)
    model = LanguageModel(lambda layer: mixer_of(path), vocab=50, d_model=32, n_layers=1, feed_forward=48)
    found = []
    for is_narrow in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_narrow):
            loss = model.loss(tokens[:, :-1], tokens[:, 1:], count=count)
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        found.append((loss.detach(), torch.cat([one.flatten() for one in gradients if one is not None])))
    (loss, gradient), (narrow_loss, narrow_gradient) = found
    assert loss != narrow_loss
    # roundings of 2^-9 of some ten products
    assert (loss - narrow_loss).abs() < 2e-3 * loss
    assert (gradient - narrow_gradient).norm() < 3e-2 * gradient.norm()


@EVERY_BASELINE
def test_baseline_does_not_look_ahead_nor_across_rows_nor_at_the_length(path: Path) -> None:
    with float64_everywhere(), torch.no_grad():
        mixer = mixer_of(path)
        x = torch.randn(2, 100, 32)
        whole = mix(mixer, x)
        changed = x.clone()
        changed[:, 65:] = 30 * torch.randn(2, 35, 32)
        assert (mix(mixer, changed)[:, :65] - whole[:, :65]).abs().max() < 1e-9
        assert (mix(mixer, changed)[:, 65:] - whole[:, 65:]).abs().max() > 1e-3
        assert (mix(mixer, x[:, :65]) - whole[:, :65]).abs().max() < 1e-9
        assert (mix(mixer, x[:1]) - whole[:1]).abs().max() < 1e-9


@EVERY_BASELINE
def test_baseline_can_be_matched_within_two_percent(path: Path) -> None:
    matched = match_feed_forward(
        lambda _: mixer_of(path, d_model=64), vocab=256, d_model=64, n_layers=2, target_parameters=116_000
    )
    assert abs(matched.relative_difference) < 0.02


@EVERY_BASELINE
def test_earlier_tokens_reach_later_outputs(path: Path) -> None:
    with torch.no_grad():
        mixer = mixer_of(path)
        x = torch.randn(1, 40, 32)
        changed = x.clone()
        changed[:, 10] += 1.0
        # beyond the four taps of the short convolution
        assert (mix(mixer, changed) - mix(mixer, x))[:, 20:].abs().max() > 1e-5

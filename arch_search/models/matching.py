"""Parameter matching: the feed-forward width that brings a model to the reference's parameter count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from arch_search.models.language_model import parameters_beside_mixers

WIDTH_MULTIPLE = 8
SMALLEST_WIDTH = 8
# a width in multiples of 8 is kept while it costs no more than this share of the target
ROUNDING_SHARE = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedModel:
    """`relative_difference` is (parameter_count - target) / target, 0 without a target.

    `feed_forward` 0: a program in that place keeps the inner width it chooses itself.
    """

    feed_forward: int
    parameter_count: int
    relative_difference: float


def match_feed_forward(
    make_mixer: Callable[[int], nn.Module],
    *,
    vocab: int,
    d_model: int,
    n_layers: int,
    target_parameters: int | None,
) -> MatchedModel:
    """The width that comes nearest to `target_parameters`; with no target the reference width, near 8/3 of d_model.

    Builds each layer's mixer once and draws from the global random generator for it; the rest is arithmetic. Where
    the mixers alone are too large, the smallest width comes back and the difference says by how much.
    """
    mixers = nn.ModuleList(make_mixer(i) for i in range(n_layers))
    in_mixers = sum(p.numel() for p in mixers.parameters())

    def count_at(width: int) -> int:
        return in_mixers + parameters_beside_mixers(vocab=vocab, d_model=d_model, n_layers=n_layers, feed_forward=width)

    width = _rounded(8 / 3 * d_model)
    if target_parameters is not None:
        per_width = count_at(2) - count_at(1)
        width = _nearest_width(target_parameters - count_at(1) + per_width, per_width, target_parameters)
    count = count_at(width)
    target = target_parameters or count
    return MatchedModel(feed_forward=width, parameter_count=count, relative_difference=(count - target) / target)


def match_inner_width(count_at: Callable[[int], int], *, target_parameters: int | None) -> MatchedModel:
    """The inner width at which a program in the place of the feed-forward comes nearest to `target_parameters`.

    `count_at(width)` is the parameter count of the whole model, at width 0 with the program's own. The width is that of
    the straight line through two counts; a program that takes no width, or counts otherwise, keeps the difference.
    """
    width = 0
    if target_parameters is not None:
        smallest = count_at(SMALLEST_WIDTH)
        per_width = (count_at(2 * SMALLEST_WIDTH) - smallest) / SMALLEST_WIDTH
        if per_width > 0:
            room = target_parameters - smallest + per_width * SMALLEST_WIDTH
            width = _nearest_width(room, per_width, target_parameters)
    count = count_at(width)
    target = target_parameters or count
    return MatchedModel(feed_forward=width, parameter_count=count, relative_difference=(count - target) / target)


def _nearest_width(room: float, per_width: float, target: int) -> int:
    exact = max(SMALLEST_WIDTH, round(room / per_width))
    rounded = _rounded(room / per_width)
    return rounded if abs(rounded * per_width - room) <= ROUNDING_SHARE * target else exact


def _rounded(width: float) -> int:
    return max(SMALLEST_WIDTH, WIDTH_MULTIPLE * round(width / WIDTH_MULTIPLE))

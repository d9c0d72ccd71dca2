"""Landscapes tell policies apart: truth can be checked there, and what is chosen by measurement is good in truth."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest

from tests.selection.landscape import (
    EFFECT,
    NAMES,
    OPTIONS,
    REFERENCE_VALUE,
    Kind,
    Landscape,
    Searcher,
    crossed,
    search,
)

REFERENCE = (0,) * len(NAMES)


def found(selection, arm, *, kind="additive", noise=0.1, repeats=12, trainings=120, crossings=0):
    searcher = Searcher(selection=selection, arm=arm, trainings=trainings, crossings=crossings)
    gains = []
    for repeat in range(repeats):
        landscape = Landscape.draw(kind, np.random.default_rng([3, repeat]))
        gains.append(search(landscape, searcher, noise_sd=noise * EFFECT, rng=np.random.default_rng([4, repeat])))
    return np.array(gains) / EFFECT


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_reference_is_worth_what_it_is_worth_and_the_best_pair_of_a_deceptive_landscape_is_hidden(kind):
    landscape = Landscape.draw(kind, np.random.default_rng(0))
    assert landscape.value(REFERENCE) == REFERENCE_VALUE
    if kind == "deceptive":
        ((first, one, second, other),) = landscape.pairs
        half = tuple(one if hook == first else 0 for hook in range(len(NAMES)))
        both = tuple({first: one, second: other}.get(hook, 0) for hook in range(len(NAMES)))
        assert landscape.value(half) < REFERENCE_VALUE < landscape.value(both)


def test_who_knows_something_draws_better_options_than_who_does_not():
    landscape, rng = Landscape.draw("additive", np.random.default_rng(1)), np.random.default_rng(2)
    for knows, low, high in ((True, 0.3 * EFFECT, math.inf), (False, -0.5 * EFFECT, 0.5 * EFFECT)):
        drawn = [landscape.option(hook, rng, knows=knows) for hook in range(len(NAMES)) for _ in range(300)]
        effects = [landscape.effects[index // 300, option] for index, option in enumerate(drawn)]
        baseline = float(landscape.effects.mean()) if not knows else 0.0
        assert low < np.mean(effects) - baseline < high
    assert set(drawn) == set(range(OPTIONS))


def test_what_builds_on_what_was_measured_gets_further_than_sampling_without_history(selection_of):
    paired = selection_of("paired", parents_from_top=4)
    ahead = found(paired, "evolve") - found(paired, "best_of_n")
    assert ahead.mean() > 2 * ahead.std(ddof=1) / math.sqrt(len(ahead)) > 0


def test_where_all_programs_are_equal_nothing_is_found(selection_of):
    nothing = Landscape(effects=np.zeros((len(NAMES), OPTIONS)), pairs={})
    searcher = Searcher(selection=selection_of("paired"), arm="evolve", trainings=60)
    gains = [search(nothing, searcher, noise_sd=EFFECT, rng=np.random.default_rng(repeat)) for repeat in range(5)]
    assert gains == [0.0] * 5


def test_a_campaign_is_the_same_for_the_same_seed(selection_of):
    one = found(selection_of("islands"), "evolve", repeats=2, trainings=60)
    assert (one == found(selection_of("islands"), "evolve", repeats=2, trainings=60)).all()


def test_a_crossing_has_each_hook_of_one_of_two_programs_and_is_neither():
    one, other = (1, 2, 3, 4, 5, 6), (1, 2, 3, 7, 7, 0)
    made = {crossed(one, other, np.random.default_rng(number)) for number in range(60)}
    assert made == {
        (1, 2, 3, 7, 5, 6), (1, 2, 3, 4, 7, 6), (1, 2, 3, 4, 5, 0),
        (1, 2, 3, 7, 7, 6), (1, 2, 3, 7, 5, 0), (1, 2, 3, 4, 7, 0),
    }  # fmt: skip
    assert crossed(one, (1, 2, 3, 4, 5, 0), np.random.default_rng(0)) is None


def test_two_good_lineages_are_joined_sooner_where_some_slots_cross(selection_of):
    """On effects that add up, a crossing keeps what each of two parents has gained."""
    paired = selection_of("paired", parents_from_top=4)
    ahead = found(paired, "mutate", repeats=24, crossings=2) - found(paired, "mutate", repeats=24)
    assert ahead.mean() > ahead.std(ddof=1) / math.sqrt(len(ahead)) > 0

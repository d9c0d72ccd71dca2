"""The weight of the Judge: what its marks have earned by agreeing with measurements. Numbers are made up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from arch_search.selection.agreement import Agreement, agreement, agreement_in, judge_weight
from arch_search.selection.pool import pool_of


def earned(marks, outcomes):
    return agreement(marks, outcomes).earned


def test_the_correlation_is_that_of_spearman_and_the_interval_holds_it():
    rng = np.random.default_rng(3)
    marks = rng.integers(1, 6, 40)
    outcomes = marks + 2 * rng.standard_normal(40)
    found = agreement(marks, outcomes)
    assert found.correlation == pytest.approx(stats.spearmanr(marks, outcomes).statistic)
    assert found.low < found.correlation < found.high
    assert found.earned == found.low > 0


@pytest.mark.parametrize(
    ("marks", "outcomes", "count"),
    [([], [], 0), ([1, 2, 3], [1, 2, 3], 3), ([5] * 30, range(30), 30), (range(30), [0.1] * 30, 30)],
)
def test_without_a_correlation_there_is_none_and_nothing_is_earned(marks, outcomes, count):
    found = agreement(list(marks), list(outcomes))
    assert found.count == count
    assert math.isnan(found.correlation)
    assert found.earned == 0.0


@pytest.mark.parametrize(("measured", "weight"), [(True, 0.2), (False, 0.5)])
def test_the_setting_is_the_most_that_marks_count_and_all_of_it_where_nothing_is_measured(
    selection_of, measured, weight
):
    config = selection_of("asi_arch", judge_weight=0.5, judge_weight_measured=measured)
    assert judge_weight(config, Agreement(count=50, correlation=0.6, low=0.4, high=0.8)) == weight


def test_marks_that_are_missing_or_off_the_scale_and_programs_not_measured_are_left_out(archive_of, selection_of):
    archive = archive_of(
        {
            "reference": {"recall": (0.5, 0.5)},
            "mute": {"recall": (0.6, 0.6)},
            "nan": {"recall": (0.6, 0.6), "judge": math.nan},
            "loud": {"recall": (0.6, 0.6), "judge": 11.0},
            "crashed": {"recall": (0.6,), "judge": 7.0, "ending": "crashed"},
            "sound": {"recall": (0.6, 0.6), "judge": 7.0},
        }
    )
    pool = pool_of(archive, selection_of("paired"), reference_id=archive.candidates[0].id)
    assert agreement_in(archive, pool.standings).count == 1


def test_a_judge_earns_nothing_before_twenty_scores():
    assert earned(range(19), range(19)) == 0.0
    assert earned(range(20), range(20)) > 0.9


def test_a_judge_that_always_says_ten_earns_nothing():
    assert earned([10.0] * 50, list(range(50))) == 0.0


def test_a_judge_that_is_wrong_earns_nothing():
    assert earned(list(range(50, 0, -1)), list(range(50))) == 0.0


def test_unmeasured_outcomes_do_not_count_towards_the_twenty():
    outcomes = [*range(19), math.nan, math.inf]
    assert earned(range(21), outcomes) == 0.0


def test_a_guessing_judge_earns_weight_in_about_5_of_100_campaigns():
    rng = np.random.default_rng(0)
    weights = [earned(rng.integers(1, 11, 30), rng.standard_normal(30)) for _ in range(1000)]
    assert np.mean([weight > 0 for weight in weights]) < 0.08


def test_the_earned_weight_is_below_the_correlation_and_near_it_with_many_scores():
    rng = np.random.default_rng(1)
    quality = rng.standard_normal(4000)
    scores = np.round(quality + rng.standard_normal(4000))
    correlation = stats.spearmanr(scores, quality).statistic
    assert correlation - 0.05 < earned(scores, quality) < correlation

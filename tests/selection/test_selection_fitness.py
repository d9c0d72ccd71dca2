from __future__ import annotations

import math

import pytest

from arch_search.selection.fitness import (
    paired_fitness,
    published_fitness,
    relative_difference,
    sigmoid_term,
)

REFERENCE = {"recall": (0.50, 0.52, 0.48, 0.50), "loss": (4.0, 4.0, 4.0, 4.0)}


def fitness_of(archive, judge_weight=0.0):
    found = published_fitness(archive, reference_id=archive.candidates[0].id, judge_weight=judge_weight)
    names = {row.id: row.name for row in archive.candidates}
    return {names[key]: value for key, value in found.items()}


def test_paired_fitness_is_the_lower_bound_and_nothing_unmeasured_is_above_minus_infinity(archive_of):
    archive = archive_of(
        {
            "reference": REFERENCE,
            "good": {"recall": (0.70, 0.71)},
            "same": {"recall": (0.50, 0.52)},
            "untrained": {},
            "nan": {"recall": (math.nan, 0.99)},
            "crashed": {"recall": (0.99, 0.99), "ending": "crashed"},
        }
    )
    found = paired_fitness(archive, reference_id=archive.candidates[0].id, metric="recall_accuracy", confidence=0.95)
    names = {row.name: found[row.id] for row in archive.candidates}
    assert names["reference"] == 0.0
    assert 0.0 < names["good"] < 0.2
    assert names["same"] < 0.0
    assert names["untrained"] == names["nan"] == names["crashed"] == -math.inf


# loss and benchmark terms as the published code computes them against 4.575 and 0.224
@pytest.mark.parametrize(("loss", "term"), [(4.50, 0.728), (4.45, 0.837), (4.40, 0.908), (4.35, 0.950), (4.30, 0.974)])
def test_the_loss_term_is_the_published_one(loss, term):
    assert sigmoid_term(-relative_difference(loss, 4.575)) == pytest.approx(term, abs=5e-4)


@pytest.mark.parametrize(
    ("score", "term"), [(0.224, 0.50), (0.228, 0.745), (0.232, 0.895), (0.236, 0.961), (0.240, 0.986)]
)
def test_the_benchmark_term_is_the_published_one(score, term):
    assert sigmoid_term(relative_difference(score, 0.224)) == pytest.approx(term, abs=1e-3)


def test_published_fitness_averages_the_terms_and_weighs_the_judge(archive_of):
    archive = archive_of({"reference": REFERENCE, "a": {"recall": (0.51, 0.51), "loss": (3.8, 3.8), "judge": 10.0}})
    loss, benchmark = sigmoid_term(0.05), sigmoid_term(0.02)
    assert fitness_of(archive)["a"].total == pytest.approx((loss + benchmark) / 2)
    assert fitness_of(archive, judge_weight=1.0)["a"].total == pytest.approx((loss + benchmark + 1.0) / 3)


def test_a_missing_opinion_counts_nothing_instead_of_the_middle(archive_of):
    archive = archive_of(
        {
            "reference": REFERENCE,
            "mute": {"recall": (0.5,), "loss": (4.0,)},
            "loud": {"recall": (0.5,), "loss": (4.0,), "judge": 3.0},
        }
    )
    found = fitness_of(archive, judge_weight=1.0)
    assert found["mute"].judge == 0.0
    assert found["mute"].total < found["loud"].total


@pytest.mark.parametrize(
    "described",
    [
        {},
        {"recall": (math.nan, math.nan)},
        {"recall": (0.9,), "loss": (math.nan,)},
        {"recall": (0.9,), "loss": (math.inf,)},
        {"recall": (0.9, 0.9), "ending": "non_finite"},
        {"recall": (0.9,), "loss": (0.0,)},  # far below the reference: a leak
        {"recall": (0.9,), "loss": (4.5,)},
        {"recall": (0.3,), "loss": (4.0,)},
    ],
)
def test_missing_and_implausible_results_stay_outside_the_pool(archive_of, described):
    assert "odd" not in fitness_of(archive_of({"reference": REFERENCE, "odd": described}))


def test_without_a_measured_reference_nothing_is_fit(archive_of):
    assert fitness_of(archive_of({"reference": {}, "a": {"recall": (0.9,)}})) == {}

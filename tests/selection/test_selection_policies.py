from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from arch_search.errors import CampaignError
from arch_search.selection.policies import choose_parents, next_parents


@pytest.fixture
def noisy_archive(archive_of):
    """Reference, baselines, placebos, and 16 programs of the search; the first three of them are worth something."""
    rng = np.random.default_rng(5)

    def recall(level, seeds=2):
        return tuple(float(level + 0.01 * value) for value in rng.standard_normal(seeds))

    described = {"reference": {"recall": recall(0.8, 4)}}
    described |= {f"baseline{i}": {"recall": recall(0.99, 1), "arm": "baseline", "generation": 0} for i in range(2)}
    described |= {f"placebo{i}": {"recall": recall(0.98), "arm": "placebo"} for i in range(2)}
    described |= {f"good{i}": {"recall": recall(0.83)} for i in range(3)}
    described |= {f"same{i}": {"recall": recall(0.79), "arm": "mutate" if i % 2 else "evolve"} for i in range(12)}
    described |= {
        "broken": {"recall": recall(0.1)},
        "crashed": {"recall": (0.99, 0.99), "ending": "crashed"},
        "queued": {},
    }
    return archive_of(described)


def chosen(archive, config, *, count, seed=0):
    return choose_parents(
        archive, config, reference_id=archive.candidates[0].id, rng=np.random.default_rng(seed), count=count
    )


@pytest.mark.parametrize("policy", ["paired", "asi_arch"])
def test_the_same_seed_gives_the_same_parents_and_another_seed_others(noisy_archive, selection_of, policy):
    config = selection_of(policy)
    assert chosen(noisy_archive, config, count=8) == chosen(noisy_archive, config, count=8)
    assert chosen(noisy_archive, config, count=8) != chosen(noisy_archive, config, count=8, seed=1)


@pytest.mark.parametrize("policy", ["paired", "asi_arch"])
def test_placebos_baselines_and_unfinished_programs_are_never_parents_or_references(
    noisy_archive, selection_of, policy
):
    for seed in range(30):
        for choice in chosen(noisy_archive, selection_of(policy, parents_from_top=3), count=10, seed=seed):
            for row in (choice.parent, *choice.references):
                assert row.arm in ("evolve", "mutate") or row.name == "reference"
                assert row.name not in ("crashed", "queued")
            assert choice.parent not in choice.references


@pytest.mark.parametrize("policy", ["paired", "asi_arch"])
def test_before_anything_evolved_the_reference_is_the_parent(archive_of, selection_of, policy):
    archive = archive_of({"reference": {"recall": (0.8, 0.81)}, "other": {"recall": (0.9,), "arm": "baseline"}})
    choices = chosen(archive, selection_of(policy), count=5)
    assert [choice.parent.name for choice in choices] == ["reference"] * 5
    assert all(choice.references == () for choice in choices)


@pytest.mark.parametrize("policy", ["paired", "asi_arch"])
def test_a_reference_that_has_not_finished_is_still_a_parent(archive_of, selection_of, policy):
    choices = chosen(archive_of({"reference": {}}), selection_of(policy), count=2)
    assert [choice.parent.name for choice in choices] == ["reference"] * 2


def test_at_least_half_of_the_draws_build_on_what_evolved_even_when_the_reference_ranks_first(archive_of, selection_of):
    archive = archive_of(
        {
            "reference": {"recall": (0.8, 0.81, 0.79, 0.8)},
            "worse1": {"recall": (0.7, 0.71)},
            "worse2": {"recall": (0.6, 0.6)},
        }
    )
    for seed in range(50):
        for count in (1, 4, 5):
            parents = [choice.parent.name for choice in chosen(archive, selection_of("paired"), count=count, seed=seed)]
            assert sum(name != "reference" for name in parents) >= count / 2


def test_better_measured_programs_are_parents_more_often(noisy_archive, selection_of):
    parents = Counter(
        choice.parent.name
        for seed in range(100)
        for choice in chosen(noisy_archive, selection_of("paired", parents_from_top=8), count=6, seed=seed)
    )
    good = sum(parents[f"good{i}"] for i in range(3))
    assert good > 0.5 * sum(parents.values())
    assert parents["broken"] == 0
    assert parents["reference"] > 0


def test_one_seed_each_still_lets_what_evolved_be_a_parent(archive_of, selection_of):
    archive = archive_of({"reference": {"recall": (0.8,)}, "a": {"recall": (0.9,)}, "b": {"recall": (0.5,)}})
    parents = Counter(choice.parent.name for choice in chosen(archive, selection_of("paired"), count=60))
    assert parents["a"] > parents["b"] > 0


def test_the_published_policy_takes_parents_from_the_top_and_references_from_below_it(archive_of, selection_of):
    described = {"reference": {"recall": (0.5, 0.5), "loss": (4.0, 4.0)}}
    described |= {f"c{i:02d}": {"recall": (0.5,), "loss": (3.99 - 0.002 * i,)} for i in range(70)}
    archive = archive_of(described)
    ranked = [f"c{i:02d}" for i in range(69, -1, -1)]
    parents, references = set(), set()
    for seed in range(60):
        for choice in chosen(archive, selection_of("asi_arch"), count=10, seed=seed):
            parents.add(choice.parent.name)
            references |= {row.name for row in choice.references}
            assert len(choice.references) == 4
    assert parents == set(ranked[:10])
    assert references == set(ranked[10:50])


def test_opinions_never_count_in_the_default_policy(archive_of, selection_of):
    def archive(judge):
        rng = np.random.default_rng(1)
        described = {"reference": {"recall": (0.8, 0.81)}}
        described |= {
            f"c{i}": {"recall": tuple(0.8 + 0.01 * rng.standard_normal(2)), "judge": judge(i)} for i in range(30)
        }
        return archive_of(described)

    config = selection_of("paired", judge_weight=1.0)
    praised = chosen(archive(lambda i: 10.0 if i < 3 else 1.0), config, count=20)
    assert praised == chosen(archive(lambda i: None), config, count=20)


@pytest.mark.parametrize(("informed", "follows"), [(True, True), (False, False)])
def test_the_judge_moves_the_published_policy_only_when_its_scores_came_true(
    archive_of, selection_of, informed, follows
):
    rng = np.random.default_rng(2)
    described = {"reference": {"recall": (0.5, 0.5, 0.51)}}
    for index in range(40):
        recall = float(0.49 + 0.001 * index)
        judge = 1.0 + 9.0 * index / 39 if informed else float(rng.integers(1, 11))
        described[f"c{index:02d}"] = {"recall": (recall, recall + 0.001), "judge": judge}
    archive = archive_of(described)
    weighted = selection_of("asi_arch", judge_weight=1.0, parents_from_top=1)
    plain = selection_of("asi_arch", judge_weight=0.0, parents_from_top=1)
    moved = chosen(archive, weighted, count=1)[0].references != chosen(archive, plain, count=1)[0].references
    assert moved is follows


def test_an_archive_without_the_reference_is_one_clear_line(archive_of, selection_of):
    archive = archive_of({"reference": {}})
    with pytest.raises(CampaignError, match="the reference abc is not in the archive"):
        choose_parents(archive, selection_of("paired"), reference_id="abc", rng=np.random.default_rng(0), count=1)


LUCK = {
    "reference": {"recall": (0.80, 0.81, 0.79, 0.80), "repeated": (0.80, 0.81)},
    "lucky": {"recall": (0.99, 0.98), "repeated": (0.70, 0.71)},
    "sound": {"recall": (0.90, 0.91), "repeated": (0.89, 0.90)},
    "newcomer": {"recall": (0.97, 0.98), "generation": 2},
    "weak newcomer": {"recall": (0.60, 0.62), "generation": 2},
    "placebo": {"recall": (0.95, 0.96), "arm": "placebo", "generation": 2},
}


@pytest.mark.parametrize("policy", ["paired", "asi_arch"])
def test_where_repeats_are_asked_for_nobody_else_is_a_parent(archive_of, selection_of, policy):
    archive = archive_of(LUCK)
    strict, free = selection_of(policy, repeat_seeds=2), selection_of(policy, repeat_seeds=0)
    draws = [choice for seed in range(40) for choice in chosen(archive, strict, count=6, seed=seed)]
    parents = {choice.parent.name for choice in draws}
    shown = {row.name for choice in draws for row in choice.references}
    assert parents | shown <= {"reference", "lucky", "sound"}
    assert "sound" in parents
    assert "newcomer" in {c.parent.name for seed in range(40) for c in chosen(archive, free, count=6, seed=seed)}


def test_what_was_lucky_when_it_was_chosen_ranks_where_its_repeats_put_it(archive_of, selection_of):
    parents = Counter(
        choice.parent.name
        for seed in range(100)
        for choice in chosen(archive_of(LUCK), selection_of("paired", repeat_seeds=2), count=6, seed=seed)
    )
    assert parents["sound"] > 1.5 * parents["lucky"] > 0


@pytest.mark.parametrize(
    ("top", "expected"), [(1, ["newcomer"]), (2, ["newcomer"]), (3, ["newcomer"]), (4, ["newcomer", "weak newcomer"])]
)
def test_those_are_repeated_that_would_become_parents(archive_of, selection_of, top, expected):
    archive = archive_of(LUCK)
    reference_id = next(one.id for one in archive.candidates if one.name == "reference")
    config = selection_of("paired", repeat_seeds=2, parents_from_top=top)
    found = next_parents(archive, config, reference_id=reference_id, generation=2)
    assert [one.name for one in found] == expected
    assert next_parents(archive, config, reference_id=reference_id, generation=3) == ()

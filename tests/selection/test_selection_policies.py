from __future__ import annotations

from collections import Counter
from typing import get_args, get_type_hints

import numpy as np
import pytest

from arch_search.config import Selection
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.errors import CampaignError
from arch_search.proposals import splice
from arch_search.selection.families import FREE, family_of
from arch_search.selection.policies import choose_parents, next_parents

POLICIES = get_args(get_type_hints(Selection)["policy"])


@pytest.fixture
def noisy_archive(archive_of):
    """Reference, baselines, placebos, and 16 programs of the search; the first three of them are worth something."""
    rng = np.random.default_rng(5)

    def recall(level, seeds=2):
        return tuple(float(level + 0.01 * value) for value in rng.standard_normal(seeds))

    described = {"reference": {"recall": recall(0.8, 4)}}
    described |= {f"baseline{i}": {"recall": recall(0.99, 1), "arm": "baseline", "generation": 0} for i in range(2)}
    described |= {f"placebo{i}": {"recall": recall(0.98), "arm": "placebo"} for i in range(2)}
    described |= {f"good{i}": {"recall": recall(0.83), "cpu_s": 2.0**i} for i in range(3)}
    described |= {f"same{i}": {"recall": recall(0.79), "arm": "mutate" if i % 2 else "evolve"} for i in range(12)}
    described |= {
        "broken": {"recall": recall(0.1)},
        "crashed": {"recall": (0.99, 0.99), "ending": "crashed"},
        "queued": {},
    }
    return archive_of(described)


def chosen(archive, config, *, count, seed=0):
    return choose_parents(
        archive, config, reference_id=archive.candidates[0].id, rng=np.random.default_rng(seed), slots=count
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_parents_and_another_seed_others(noisy_archive, selection_of, policy):
    config = selection_of(policy)
    assert chosen(noisy_archive, config, count=8) == chosen(noisy_archive, config, count=8)
    assert chosen(noisy_archive, config, count=8) != chosen(noisy_archive, config, count=8, seed=1)


@pytest.mark.parametrize("policy", POLICIES)
def test_placebos_baselines_and_unfinished_programs_are_never_parents_or_references(
    noisy_archive, selection_of, policy
):
    for seed in range(30):
        for choice in chosen(noisy_archive, selection_of(policy, parents_from_top=3), count=10, seed=seed):
            for row in (choice.parent, *choice.references):
                assert row.arm in ("evolve", "mutate") or row.name == "reference"
                assert row.name not in ("crashed", "queued")
            assert choice.parent not in choice.references


@pytest.mark.parametrize("policy", POLICIES)
def test_before_anything_evolved_the_reference_is_the_parent(archive_of, selection_of, policy):
    archive = archive_of({"reference": {"recall": (0.8, 0.81)}, "other": {"recall": (0.9,), "arm": "baseline"}})
    choices = chosen(archive, selection_of(policy), count=5)
    assert [choice.parent.name for choice in choices] == ["reference"] * 5
    assert all(choice.references == () for choice in choices)


@pytest.mark.parametrize("policy", POLICIES)
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
        choose_parents(archive, selection_of("paired"), reference_id="abc", rng=np.random.default_rng(0), slots=1)


LUCK = {
    "reference": {"recall": (0.80, 0.81, 0.79, 0.80), "repeated": (0.80, 0.81)},
    "lucky": {"recall": (0.99, 0.98), "repeated": (0.70, 0.71)},
    "sound": {"recall": (0.90, 0.91), "repeated": (0.89, 0.90), "cpu_s": 2.0},
    "newcomer": {"recall": (0.97, 0.98), "generation": 2},
    "weak newcomer": {"recall": (0.60, 0.62), "generation": 2},
    "placebo": {"recall": (0.95, 0.96), "arm": "placebo", "generation": 2},
    "control": {"recall": (0.98, 0.99), "arm": "best_of_n", "generation": 2},
}


@pytest.mark.parametrize("policy", POLICIES)
def test_where_repeats_are_asked_for_nobody_else_is_a_parent(archive_of, selection_of, policy):
    archive = archive_of(LUCK)
    strict, free = selection_of(policy, repeat_seeds=2), selection_of(policy, repeat_seeds=0)
    draws = [choice for seed in range(40) for choice in chosen(archive, strict, count=6, seed=seed)]
    parents = {choice.parent.name for choice in draws}
    shown = {row.name for choice in draws for row in choice.references}
    assert parents | shown <= {"reference", "lucky", "sound"}
    assert "sound" in parents
    freely = {choice.parent.name for seed in range(40) for choice in chosen(archive, free, count=6, seed=seed)}
    assert "newcomer" in freely
    assert not freely & {"control", "placebo"}


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
    found = next_parents(archive, config, reference_id=reference_id, generation=2, slots=4)
    assert [one.name for one in found] == expected
    assert next_parents(archive, config, reference_id=reference_id, generation=3, slots=4) == ()


# ---- each policy for itself


def names(choices):
    return [choice.parent.name for choice in choices]


def test_islands_have_parents_of_their_own_until_the_best_moves_on_along_the_ring(archive_of, selection_of):
    described = {"reference": {"recall": (0.80, 0.81)}}
    described |= {f"s{slot}": {"recall": (0.8 + slot / 100, 0.81 + slot / 100), "slot": slot} for slot in range(6)}
    archive = archive_of(described)  # all of generation 1; with 3 islands slot 5 belongs to island 2
    alone = selection_of("islands", islands=3, migrate_every=100)
    for seed in range(20):
        parents = names(chosen(archive, alone, count=6, seed=seed))
        assert all(int(name[1]) % 3 == slot % 3 for slot, name in enumerate(parents))
    migrating = selection_of("islands", islands=3, migrate_every=2)  # generation 2 is proposed now
    moved = {name for seed in range(40) for name in names(chosen(archive, migrating, count=6, seed=seed))[0::3]}
    assert moved == {"s0", "s3", "s5"}


def test_an_island_without_anything_measured_starts_from_the_reference(archive_of, selection_of):
    archive = archive_of({"reference": {"recall": (0.8, 0.81)}, "a": {"recall": (0.9, 0.91), "slot": 0}})
    assert names(chosen(archive, selection_of("islands"), count=3)) == ["a", "reference", "reference"]


def toolbox(**bodies: str) -> str:
    """The reference with other bodies in the named hooks."""
    text = SEED_PROGRAM
    for name, body in bodies.items():
        signature = splice.method_source(text, "DeltaNet", name).splitlines()[0]
        text = splice.put_method(text, "DeltaNet", name, f"{signature}\n    return {body}\n")
    return text


def test_the_family_of_a_program_is_what_it_changes():
    decay, both = toolbox(decay="-x.exp()"), toolbox(decay="-x.exp()", mix_paths="2.0 * o")
    assert family_of(SEED_PROGRAM, SEED_PROGRAM) == ()
    assert family_of(decay, SEED_PROGRAM) == ("decay",)
    assert family_of(both, SEED_PROGRAM) == ("decay", "mix_paths")
    assert family_of("class DeltaNet: ...", SEED_PROGRAM) == (FREE,)


def test_the_elite_of_every_cell_is_a_parent_as_often_as_any_other(archive_of, selection_of):
    described = {
        "reference": {"recall": (0.80, 0.81), "program": SEED_PROGRAM},
        "best": {"recall": (0.95, 0.96), "program": toolbox(decay="-x.exp()")},
        "second of its cell": {"recall": (0.94, 0.95), "program": toolbox(decay="-x.abs()")},
        "weak family": {"recall": (0.70, 0.71), "program": toolbox(mix_paths="2.0 * o")},
        "dear": {"recall": (0.85, 0.86), "program": toolbox(decay="-x.sin()"), "cpu_s": 2.0},
    }
    drawn = Counter(names(chosen(archive_of(described), selection_of("map_elites"), count=400)))
    assert set(drawn) == {"reference", "best", "weak family", "dear"}
    assert min(drawn.values()) > 70


def test_the_bandit_tries_every_parent_once_and_then_whose_children_gain(archive_of, selection_of):
    described = {
        "reference": {"recall": (0.80, 0.81)},
        "fertile": {"recall": (0.84, 0.85), "parents": ("reference",)},
        "barren": {"recall": (0.90, 0.91), "parents": ("reference",)},
    }
    described |= {f"up{i}": {"recall": (0.86, 0.87), "parents": ("fertile",), "generation": 2} for i in range(6)}
    described |= {f"down{i}": {"recall": (0.82, 0.83), "parents": ("barren",), "generation": 2} for i in range(6)}
    drawn = names(chosen(archive_of(described), selection_of("bandit", parents_from_top=40), count=32))
    assert set(drawn[:12]) == {f"{kind}{i}" for kind in ("up", "down") for i in range(6)}
    later = Counter(drawn[12:])
    assert later["fertile"] > later["barren"]


def test_a_parent_whose_trainings_cost_more_must_gain_more_often(archive_of, selection_of):
    described = {"reference": {"recall": (0.80, 0.81)}}
    for name, cpu_s in (("cheap", 1.0), ("dear", 8.0)):
        described[name] = {"recall": (0.9, 0.91), "parents": ("reference",), "cpu_s": cpu_s}
        child = {"recall": (0.95, 0.96), "parents": (name,), "generation": 2, "cpu_s": cpu_s}
        described |= {f"{name}{i}": child for i in range(5)}
    drawn = Counter(names(chosen(archive_of(described), selection_of("bandit", parents_from_top=40), count=40)))
    assert drawn["cheap"] > drawn["dear"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_cold_start_takes_the_reference_until_enough_was_measured(noisy_archive, selection_of, policy):
    for cold_start, is_cold in ((17, True), (16, False)):  # 16 programs of the search were measured
        drawn = set(names(chosen(noisy_archive, selection_of(policy, cold_start=cold_start), count=30)))
        assert (drawn == {"reference"}) is is_cold


@pytest.mark.parametrize("policy", POLICIES)
def test_where_nothing_gets_better_every_second_parent_is_the_reference(archive_of, selection_of, policy):
    described = {"reference": {"recall": (0.80, 0.81, 0.8)}, "old": {"recall": (0.83, 0.84), "loss": (2.9, 2.9)}}
    described |= {f"n{i}": {"recall": (0.80, 0.79), "generation": 2 + i} for i in range(4)}
    archive = archive_of(described)
    restarted = names(chosen(archive, selection_of(policy, stagnation=3), count=20))
    assert restarted[1::2] == ["reference"] * 10
    assert set(restarted[0::2]) != {"reference"}
    patient = names(chosen(archive, selection_of(policy, stagnation=6), count=20))
    assert patient == names(chosen(archive, selection_of(policy, stagnation=0), count=20))


def test_the_published_pool_is_renewed_after_so_many_programs(archive_of, selection_of):
    described = {"reference": {"recall": (0.5, 0.5), "loss": (4.0, 4.0)}}
    described |= {f"c{i:02d}": {"recall": (0.5,), "loss": (3.99 - 0.002 * i,)} for i in range(25)}
    config = selection_of("asi_arch", pool_refresh=10, parents_from_top=1)
    # 26 programs were measured, the reference among them; the pool is that of the first 20
    assert set(names(chosen(archive_of(described), config, count=20))) == {"c18"}


@pytest.mark.parametrize("policy", POLICIES)
def test_whoever_a_policy_would_take_is_repeated_first_and_is_a_parent_then(archive_of, selection_of, policy):
    """Also the best of a weak island, or of a weak family."""
    described = {"reference": {"recall": (0.80, 0.81, 0.8), "repeated": (0.8, 0.81)}}
    for slot in range(4):
        level = 0.9 - 0.02 * slot
        described[f"s{slot}"] = {"recall": (level, level + 0.01 + 0.002 * slot), "slot": slot, "cpu_s": 2.0**slot}
    config = selection_of(policy, repeat_seeds=2, parents_from_top=1, islands=4)
    archive = archive_of(described)
    reference_id = archive.candidates[0].id
    named = [one.name for one in next_parents(archive, config, reference_id=reference_id, generation=1, slots=4)]
    assert named == (["s0", "s1", "s2", "s3"] if policy in ("islands", "map_elites") else ["s0"])
    assert set(names(chosen(archive, config, count=4))) == {"reference"}
    again = archive_of(
        {name: facts | ({"repeated": facts["recall"]} if name in named else {}) for name, facts in described.items()}
    )
    free = selection_of(policy, repeat_seeds=0, parents_from_top=1, islands=4)
    parents = [{*names(chosen(again, one, count=4, seed=seed))} for one in (config, free) for seed in range(20)]
    assert set().union(*parents[:20]) == set().union(*parents[20:]) >= set(named)
    assert next_parents(again, config, reference_id=reference_id, generation=1, slots=4) == ()


@pytest.mark.parametrize("policy", POLICIES)
def test_no_program_is_shown_twice(noisy_archive, selection_of, policy):
    for choice in chosen(noisy_archive, selection_of(policy, references=10), count=20):
        shown = [row.id for row in choice.references]
        assert len(set(shown)) == len(shown)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_program_by_hand_may_be_a_parent_and_an_excluded_one_is_neither_parent_nor_shown_nor_repeated(
    archive_of, selection_of, policy
):
    levels = {"reference": (0.8, 0.81), "mine": (0.93, 0.94), "good": (0.96, 0.97), "other": (0.86, 0.87)}
    described: dict[str, dict[str, object]] = {name: {"recall": recall} for name, recall in levels.items()}
    described["mine"] |= {"arm": "hand", "cpu_s": 4.0}
    archive = archive_of(described)
    good = next(one.id for one in archive.candidates if one.name == "good")
    seen, shown = set(), set()
    for seed in range(30):
        choices = choose_parents(
            archive, selection_of(policy), reference_id=archive.candidates[0].id, rng=np.random.default_rng(seed),
            slots=8, excluded={good},
        )  # fmt: skip
        seen |= {choice.parent.name for choice in choices}
        shown |= {one.name for choice in choices for one in choice.references}
    assert "mine" in seen
    assert "good" not in seen | shown
    wanted = next_parents(
        archive, selection_of(policy), reference_id=archive.candidates[0].id, generation=1, slots=8, excluded={good}
    )
    assert "mine" in {one.name for one in wanted}
    assert "good" not in {one.name for one in wanted}

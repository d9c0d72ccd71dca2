"""Which candidates become parents, and which others the model gets to see. Pure, and seeded by the generator given."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence

from numpy.random import Generator

from arch_search.analysis.statistics import repeated
from arch_search.config import Selection
from arch_search.selection.families import Cell, cells_of
from arch_search.selection.pool import ParentChoice, Pool, pool_of, ranked_draw, sample
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Candidate

# Auer, Cesa-Bianchi and Fischer 2002 (UCB1): rewards lie in [0, 1]
_EXPLORATION = math.sqrt(2.0)


def choose_parents(
    contents: ArchiveContents,
    config: Selection,
    *,
    reference_id: str,
    rng: Generator,
    slots: int,
    rounds: int = 1,
    excluded: Container[str] = (),
) -> tuple[ParentChoice, ...]:
    """Parents for one generation: `rounds` times one for each of its slots, by the policy of the configuration.

    Choice i is for slot i % slots. Until `cold_start` programs were measured the reference is every parent; after
    `stagnation` generations in which the best did not get better, every second one. `excluded` are never chosen.

    Raises CampaignError when the reference is not in the archive.
    """
    pool = pool_of(contents, config, reference_id=reference_id, excluded=excluded)
    count = slots * rounds
    if not pool.evolved or pool.explored < config.cold_start:
        return tuple(pool.choice(pool.reference, rng) for _ in range(count))
    choices = _POLICIES[config.policy](pool, rng, slots, count)
    if not _stagnates(pool):
        return tuple(choices)
    return tuple(pool.choice(pool.reference, rng) if index % 2 else choice for index, choice in enumerate(choices))


def next_parents(
    contents: ArchiveContents,
    config: Selection,
    *,
    reference_id: str,
    generation: int,
    slots: int,
    excluded: Container[str] = (),
) -> tuple[Candidate, ...]:
    """Those of `generation` that the policy would take as parents if nobody needed to be repeated.

    Raises CampaignError when the reference is not in the archive.
    """
    pool = pool_of(contents, config, reference_id=reference_id, newcomers=generation, excluded=excluded)
    if config.policy == "islands":
        number = min(config.islands, slots)
        first = [one for island in range(number) for one in _of_island(pool, island, number)]
    elif config.policy == "map_elites":
        first = _elites(pool)
    else:
        first = list(pool.evolved[: config.parents_from_top])
    before = repeated(contents) | {reference_id}
    return tuple(one for one in first if one.id not in before)


def _paired(pool: Pool, rng: Generator, slots: int, count: int) -> Sequence[ParentChoice]:
    """From the best by lower bound of the measured improvement, the weight falling as 1 / rank.

    Half of the draws, rounded up, are from evolved candidates alone: the reference has the bound 0 and would
    otherwise win every comparison that is still within noise, so that nothing builds on anything.
    """
    top = pool.config.parents_from_top
    evolved, everyone = pool.evolved[:top], pool.ranked[:top]
    choices = []
    for index in rng.permutation(count):
        among = evolved if index < (count + 1) // 2 else everyone
        choices.append(pool.choice(among[ranked_draw(len(among), rng)], rng))
    return choices


def _asi_arch(pool: Pool, rng: Generator, slots: int, count: int) -> Sequence[ParentChoice]:
    """As published: parent uniform from the top of the pool, references from the rest of it.

    The pool is renewed after every `pool_refresh` measured programs, and holds those that were there then.
    """
    config = pool.config
    measured = [one for one in pool.contents.candidates if math.isfinite(pool.improvement(one.id))]
    known = {one.id for one in measured[: len(measured) // config.pool_refresh * config.pool_refresh]}
    ranked = [one for one in pool.ranked if one.id in known or one.id == pool.reference.id]
    kept = ranked[: config.pool_size] or [pool.reference]
    top, rest = kept[: config.parents_from_top], kept[config.parents_from_top :]
    return [
        ParentChoice(parent=top[int(rng.integers(len(top)))], references=sample(rest, config.references, rng))
        for _ in range(count)
    ]


def _islands(pool: Pool, rng: Generator, slots: int, count: int) -> Sequence[ParentChoice]:
    """Slots belong to islands in turn, and a program to the island of its slot; each has parents of its own.

    Every `migrate_every` generations the best of each island is a parent in the next one of the ring too.
    """
    config = pool.config
    number = min(config.islands, slots)
    migrates = pool.generation % config.migrate_every == 0
    choices = []
    for index in range(count):
        island = index % slots % number
        own = _of_island(pool, island, number)
        if migrates and number > 1:
            own += _of_island(pool, (island - 1) % number, number)[:1]
        among = own or [pool.reference]
        choices.append(pool.choice(among[ranked_draw(len(among), rng)], rng, among=among))
    return choices


def _map_elites(pool: Pool, rng: Generator, slots: int, count: int) -> Sequence[ParentChoice]:
    """The best of each cell (changed components, cost per step) is a parent, all alike (Mouret and Clune 2015)."""
    among = _elites(pool)
    return [pool.choice(among[int(rng.integers(len(among)))], rng, among=among) for _ in range(count)]


def _bandit(pool: Pool, rng: Generator, slots: int, count: int) -> Sequence[ParentChoice]:
    """The parent whose children have gained most often per cost of training, with a bonus for few children (UCB1).

    A child gains where it is measured better than its parent. Choices of one call count as children that did not.
    """
    among = pool.ranked[: pool.config.parents_from_top]
    children, gains = _children(pool)
    cost = _relative_cost(pool)
    choices = []
    for _ in range(count):
        total = 1 + sum(children.get(one.id, 0) for one in among)

        def bound(one: Candidate, total: int = total) -> float:
            tried = children.get(one.id, 0)
            if not tried:
                return math.inf
            bonus = _EXPLORATION * math.sqrt(math.log(total) / tried)
            return (gains.get(one.id, 0) / tried + bonus) / cost.get(one.id, 1.0)

        best = max(among, key=bound)  # the first of equals: the best ranked
        children[best.id] = children.get(best.id, 0) + 1
        choices.append(pool.choice(best, rng))
    return choices


_POLICIES: Mapping[str, Callable[[Pool, Generator, int, int], Sequence[ParentChoice]]] = {
    "paired": _paired,
    "asi_arch": _asi_arch,
    "islands": _islands,
    "map_elites": _map_elites,
    "bandit": _bandit,
}


def _of_island(pool: Pool, island: int, number: int) -> list[Candidate]:
    """The best of one of `number` islands."""
    return [one for one in pool.evolved if one.slot % number == island][: pool.config.parents_from_top]


def _elites(pool: Pool) -> list[Candidate]:
    """The best of each cell."""
    cells = cells_of(pool)
    elites: dict[Cell, Candidate] = {}
    for candidate in pool.ranked:  # best first
        elites.setdefault(cells[candidate.id], candidate)
    return list(elites.values())


def _children(pool: Pool) -> tuple[dict[str, int], dict[str, int]]:
    """Of every parent: measured children, and those of them that are better than it."""
    children: dict[str, int] = {}
    gains: dict[str, int] = {}
    for one in pool.evolved:
        for parent in one.parents:
            before = 0.0 if parent == pool.reference.id else pool.improvement(parent)
            children[parent] = children.get(parent, 0) + 1
            gains[parent] = gains.get(parent, 0) + int(pool.improvement(one.id) > before)
    return children, gains


def _relative_cost(pool: Pool) -> dict[str, float]:
    """Mean processor time of each candidate's trainings, in those of the reference."""
    spent: dict[str, list[float]] = {}
    for one in pool.contents.evaluations:
        if one.ending == "finished":
            spent.setdefault(one.task.candidate_id, []).append(one.cpu_s)
    mean = {key: math.fsum(values) / len(values) for key, values in spent.items()}
    unit = mean.get(pool.reference.id, 0.0)
    return {key: value / unit for key, value in mean.items()} if unit > 0 else {}


def _stagnates(pool: Pool) -> bool:
    """Whether the best one by now is as old as `stagnation` generations."""
    if not pool.config.stagnation:
        return False
    return pool.generation - pool.evolved[0].generation > pool.config.stagnation

"""Which candidates become parents, and which others the model gets to see. Pure, and seeded by the generator given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

from arch_search.analysis.statistics import standings
from arch_search.config import Selection
from arch_search.errors import CampaignError
from arch_search.selection.fitness import correlation_weight, judge_scores, published_fitness
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import HIDDEN_SEEDS_FROM, Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentChoice:
    """One parent, and other programs for the model to look at."""

    parent: Candidate
    references: tuple[Candidate, ...]


def choose_parents(
    contents: ArchiveContents, config: Selection, *, reference_id: str, rng: Generator, count: int
) -> tuple[ParentChoice, ...]:
    """Parents for `count` proposals of one generation, by the policy of the configuration.

    Parents are the reference or programs of the search, all of whose seeds finished; never placebos or other
    baselines, and where selection.repeat_seeds asks for repeats, none that was not repeated. Call once per
    generation: the share of evolved parents holds within one call.

    Raises CampaignError when the reference is not in the archive.
    """
    reference = _reference(contents, reference_id)
    if config.policy == "paired":
        return _paired(contents, config, reference=reference, rng=rng, count=count)
    return _asi_arch(contents, config, reference=reference, rng=rng, count=count)


def next_parents(
    contents: ArchiveContents, config: Selection, *, reference_id: str, generation: int
) -> tuple[Candidate, ...]:
    """Those of `generation` that would be among the first `parents_from_top` if nobody needed to be repeated.

    Raises CampaignError when the reference is not in the archive.
    """
    reference = _reference(contents, reference_id)
    ranked = _ranked if config.policy == "paired" else _ranked_as_published
    repeated = _repeated(contents)
    entitled = [one for one in ranked(contents, config, reference) if _is_ours(one)]
    pool = [one for one in entitled if one.id in repeated or one.generation == generation]
    return tuple(one for one in pool[: config.parents_from_top] if one.id not in repeated)


def _paired(
    contents: ArchiveContents, config: Selection, *, reference: Candidate, rng: Generator, count: int
) -> tuple[ParentChoice, ...]:
    """From the best by lower bound of the measured improvement, the weight falling as 1 / rank.

    Half of the draws, rounded up, are from evolved candidates alone as soon as one was measured: the reference has
    the bound 0 and would otherwise win every comparison that is still within noise, so that nothing builds on
    anything.
    """
    everyone = _entitled(contents, config, _ranked(contents, config, reference))
    evolved = [one for one in everyone if _is_ours(one)][: config.parents_from_top]
    everyone = everyone[: config.parents_from_top]
    from_evolved = (count + 1) // 2 if evolved else 0
    choices = []
    for index in rng.permutation(count):
        pool = evolved if index < from_evolved else everyone
        parent = pool[_ranked_draw(len(pool), rng)]
        others = [candidate for candidate in [reference, *evolved] if candidate.id != parent.id]
        choices.append(ParentChoice(parent=parent, references=_sample(others, config.references, rng)))
    return tuple(choices)


def _asi_arch(
    contents: ArchiveContents, config: Selection, *, reference: Candidate, rng: Generator, count: int
) -> tuple[ParentChoice, ...]:
    """As published: parent uniform from the top of the pool, references from the rest of it."""
    ranked = _entitled(contents, config, _ranked_as_published(contents, config, reference))
    pool = ranked[: config.pool_size] or [reference]
    top, rest = pool[: config.parents_from_top], pool[config.parents_from_top :]
    return tuple(
        ParentChoice(parent=top[int(rng.integers(len(top)))], references=_sample(rest, config.references, rng))
        for _ in range(count)
    )


def _ranked(contents: ArchiveContents, config: Selection, reference: Candidate) -> list[Candidate]:
    """The reference and the measured programs of the search, by lower bound of the improvement."""
    rows = standings(contents, reference_id=reference.id, metric=config.metric, confidence=config.confidence)
    by_id = {candidate.id: candidate for candidate in contents.candidates}
    return [
        by_id[row.candidate_id]
        for row in rows
        if row.candidate_id == reference.id or (math.isfinite(row.improvement) and _is_ours(by_id[row.candidate_id]))
    ]


def _ranked_as_published(contents: ArchiveContents, config: Selection, reference: Candidate) -> list[Candidate]:
    """The reference and the measured programs of the search, by the published fitness.

    The pool is brought up to date at every generation; the published code did so every 50 records. The judge's
    weight is the configured one times what its measured correlation has earned.
    """
    weight = config.judge_weight * _earned_weight(contents, config, reference.id) if config.judge_weight else 0.0
    fitness = published_fitness(contents, reference_id=reference.id, judge_weight=weight)
    ranked = [one for one in contents.candidates if one.id in fitness and (one.id == reference.id or _is_ours(one))]
    return sorted(ranked, key=lambda candidate: (-fitness[candidate.id].total, candidate.id))


def _entitled(contents: ArchiveContents, config: Selection, ranked: Sequence[Candidate]) -> list[Candidate]:
    """Those who may be parents now: where repeats are asked for, only the reference and who was repeated."""
    if not config.repeat_seeds:
        return list(ranked)
    repeated = _repeated(contents)
    return [one for one in ranked if one.id in repeated or not _is_ours(one)]


def _repeated(contents: ArchiveContents) -> set[str]:
    return {one.task.candidate_id for one in contents.evaluations if one.task.seed >= HIDDEN_SEEDS_FROM}


def _is_ours(candidate: Candidate) -> bool:
    """Whether the search made it, to find something better: placebos and baselines are there to compare with."""
    return candidate.arm not in ("baseline", "placebo")


def _reference(contents: ArchiveContents, reference_id: str) -> Candidate:
    reference = contents.candidate(reference_id)
    if reference is None:
        raise CampaignError(f"the reference {reference_id} is not in the archive; run the baselines first")
    return reference


def _earned_weight(contents: ArchiveContents, config: Selection, reference_id: str) -> float:
    judged = judge_scores(contents)
    rows = standings(contents, reference_id=reference_id, metric=config.metric, confidence=config.confidence)
    pairs = [(judged[row.candidate_id], row.improvement) for row in rows if row.candidate_id in judged]
    return correlation_weight([score for score, _ in pairs], [result for _, result in pairs])


def _ranked_draw(size: int, rng: Generator) -> int:
    """An index below `size`; index i has a weight of 1 / (i + 1)."""
    weights = [1.0 / (rank + 1) for rank in range(size)]
    total = math.fsum(weights)
    return int(rng.choice(size, p=[weight / total for weight in weights]))


def _sample(candidates: Sequence[Candidate], size: int, rng: Generator) -> tuple[Candidate, ...]:
    """Up to `size` different candidates, uniform."""
    order = rng.permutation(len(candidates))[:size]
    return tuple(candidates[int(index)] for index in order)

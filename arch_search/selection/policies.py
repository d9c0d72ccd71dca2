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
from cognition_db.records import Candidate


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
    baselines. Call once per generation: the share of evolved parents holds within one call.

    Raises CampaignError when the reference is not in the archive.
    """
    reference = contents.candidate(reference_id)
    if reference is None:
        raise CampaignError(f"the reference {reference_id} is not in the archive; run the baselines first")
    if config.policy == "paired":
        return _paired(contents, config, reference=reference, rng=rng, count=count)
    return _asi_arch(contents, config, reference=reference, rng=rng, count=count)


def _paired(
    contents: ArchiveContents, config: Selection, *, reference: Candidate, rng: Generator, count: int
) -> tuple[ParentChoice, ...]:
    """From the best by lower bound of the measured improvement, the weight falling as 1 / rank.

    Half of the draws, rounded up, are from evolved candidates alone as soon as one was measured: the reference has
    the bound 0 and would otherwise win every comparison that is still within noise, so that nothing builds on
    anything.
    """
    rows = standings(contents, reference_id=reference.id, metric=config.metric, confidence=config.confidence)
    by_id = {candidate.id: candidate for candidate in contents.candidates}
    evolved = [
        by_id[row.candidate_id]
        for row in rows
        if row.arm not in ("baseline", "placebo") and math.isfinite(row.improvement)
    ][: config.parents_from_top]
    order = {row.candidate_id: rank for rank, row in enumerate(rows)}
    everyone = sorted([reference, *evolved], key=lambda candidate: order[candidate.id])[: config.parents_from_top]
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
    """As published: parent uniform from the top of the pool, references from the rest of it.

    The pool is brought up to date at every generation; the published code did so every 50 records. The judge's
    weight is the configured one times what its measured correlation has earned.
    """
    weight = config.judge_weight * _earned_weight(contents, config, reference.id) if config.judge_weight else 0.0
    fitness = published_fitness(contents, reference_id=reference.id, judge_weight=weight)
    ranked = sorted(
        (
            candidate
            for candidate in contents.candidates
            if candidate.id in fitness
            and (candidate.id == reference.id or candidate.arm not in ("baseline", "placebo"))
        ),
        key=lambda candidate: (-fitness[candidate.id].total, candidate.id),
    )
    pool = ranked[: config.pool_size] or [reference]
    top, rest = pool[: config.parents_from_top], pool[config.parents_from_top :]
    return tuple(
        ParentChoice(parent=top[int(rng.integers(len(top)))], references=_sample(rest, config.references, rng))
        for _ in range(count)
    )


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

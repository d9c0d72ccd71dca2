"""The pool: who may be a parent now, best first. Pure over the archive."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from numpy.random import Generator

from arch_search.analysis.statistics import Standing, repeated, standings
from arch_search.config import Selection
from arch_search.errors import CampaignError
from arch_search.selection.agreement import agreement_in, judge_weight
from arch_search.selection.fitness import published_fitness
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import PARENT_ARMS, Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentChoice:
    """One parent, and other programs for the model to look at."""

    parent: Candidate
    references: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What a policy chooses from.

    `ranked` holds, best first, the reference and every measured program of the search that may be a parent; by lower
    bound of the improvement, or by the published fitness where the policy is the published one.
    """

    contents: ArchiveContents
    config: Selection
    reference: Candidate
    ranked: tuple[Candidate, ...]
    standings: dict[str, Standing]

    @property
    def evolved(self) -> tuple[Candidate, ...]:
        return tuple(candidate for candidate in self.ranked if candidate.id != self.reference.id)

    @property
    def explored(self) -> int:
        """How many programs of the search were measured, entitled or not."""
        rows = self.standings.values()
        return sum(row.arm in PARENT_ARMS and math.isfinite(row.improvement) for row in rows)

    @property
    def generation(self) -> int:
        """The one that is proposed now."""
        return 1 + max((candidate.generation for candidate in self.contents.candidates), default=0)

    def improvement(self, candidate_id: str) -> float:
        """Over the reference, positive = better; NaN where nothing was measured."""
        row = self.standings.get(candidate_id)
        return row.improvement if row else math.nan

    def choice(self, parent: Candidate, rng: Generator, *, among: Sequence[Candidate] | None = None) -> ParentChoice:
        """This parent, with references from `among` (the first of the pool, where nothing is given) and the seed."""
        first = self.evolved[: self.config.parents_from_top] if among is None else among
        others = {one.id: one for one in (self.reference, *first) if one.id != parent.id}
        return ParentChoice(parent=parent, references=sample(list(others.values()), self.config.references, rng))


def pool_of(
    contents: ArchiveContents,
    config: Selection,
    *,
    reference_id: str,
    newcomers: int | None = None,
    excluded: Container[str] = (),
) -> Pool:
    """The pool of a campaign.

    Parents are the reference or programs of the search, all of whose seeds finished; never placebos, other baselines
    or the control best_of_n, and where selection.repeat_seeds asks for repeats, none that was not repeated: but those
    of the generation `newcomers`, as if they had been. `excluded` are left out, whatever they reached.

    Raises CampaignError when the reference is not in the archive.
    """
    pool = _everybody(contents, config, reference_id)
    pool = replace(pool, ranked=tuple(one for one in pool.ranked if one.id not in excluded))
    if not config.repeat_seeds:
        return pool
    entitled = repeated(contents) | {reference_id}
    kept = tuple(one for one in pool.ranked if one.id in entitled or one.generation == newcomers)
    return replace(pool, ranked=kept)


def ranked_draw(size: int, rng: Generator) -> int:
    """An index below `size`; index i has a weight of 1 / (i + 1)."""
    weights = [1.0 / (rank + 1) for rank in range(size)]
    total = math.fsum(weights)
    return int(rng.choice(size, p=[weight / total for weight in weights]))


def sample(candidates: Sequence[Candidate], size: int, rng: Generator) -> tuple[Candidate, ...]:
    """Up to `size` different candidates, uniform."""
    order = rng.permutation(len(candidates))[:size]
    return tuple(candidates[int(index)] for index in order)


def _everybody(contents: ArchiveContents, config: Selection, reference_id: str) -> Pool:
    """The pool as if nobody needed to be repeated."""
    reference = contents.candidate(reference_id)
    if reference is None:
        raise CampaignError(f"the reference {reference_id} is not in the archive; run the baselines first")
    rows = standings(contents, reference_id=reference_id, metric=config.metric, confidence=config.confidence)
    by_id = {candidate.id: candidate for candidate in contents.candidates}
    pool = Pool(
        contents=contents,
        config=config,
        reference=reference,
        ranked=tuple(
            by_id[row.candidate_id]
            for row in rows
            if row.candidate_id == reference_id or (row.arm in PARENT_ARMS and math.isfinite(row.improvement))
        ),
        standings={row.candidate_id: row for row in rows},
    )
    return replace(pool, ranked=_by_published_fitness(pool)) if config.policy == "asi_arch" else pool


def _by_published_fitness(pool: Pool) -> tuple[Candidate, ...]:
    """Those that the published pool would hold."""
    weight = judge_weight(pool.config, agreement_in(pool.contents, pool.standings))
    fitness = published_fitness(pool.contents, reference_id=pool.reference.id, judge_weight=weight)
    kept = [
        one
        for one in pool.contents.candidates
        if one.id in fitness and (one.arm in PARENT_ARMS or one.id == pool.reference.id)
    ]
    return tuple(sorted(kept, key=lambda candidate: (-fitness[candidate.id].total, candidate.id)))

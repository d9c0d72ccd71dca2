"""Measured programs and who is related to whom: what lessons and summaries are computed from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from arch_search.analysis.statistics import Standing, standings
from arch_search.selection.families import FREE, family_of
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Candidate

_SIBLINGS = 4
_COUSINS = 3
# baselines were not made from the reference, and placebos are the reference
_OUTSIDE = ("baseline", "placebo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The programs of an archive beside their standings.

    `families`: the components in which each program of the search differs from the reference, by candidate id.
    """

    candidates: Mapping[str, Candidate]
    standings: Mapping[str, Standing]
    families: Mapping[str, tuple[str, ...]]
    reference_id: str
    metric: str

    @classmethod
    def of(cls, contents: ArchiveContents, *, reference_id: str, metric: str, confidence: float) -> Measured:
        candidates = {one.id: one for one in contents.candidates}
        rows = standings(contents, reference_id=reference_id, metric=metric, confidence=confidence)
        reference = candidates[reference_id]
        return cls(
            candidates=candidates,
            standings={row.candidate_id: row for row in rows},
            families={
                one.id: family_of(one.program, reference.program)
                for one in contents.candidates
                if one.arm not in _OUTSIDE
            },
            reference_id=reference_id,
            metric=metric,
        )

    def changed_by(self, candidate: Candidate) -> tuple[str, ...]:
        """Components in which the program differs from its first parent, or from the reference without one."""
        parent = self.candidates.get(candidate.parents[0]) if candidate.parents else None
        return family_of(candidate.program, (parent or self.candidates[self.reference_id]).program)

    def parents(self, candidate: Candidate) -> list[Candidate]:
        """Those beside the reference, which stands apart."""
        return self._known(candidate.parents)

    def grandparents(self, candidate: Candidate) -> list[Candidate]:
        ids = dict.fromkeys(key for parent in self.parents(candidate) for key in parent.parents)
        return [one for one in self._known(ids) if one.id not in candidate.parents]

    def siblings(self, candidate: Candidate) -> list[Candidate]:
        """The strongest of those that share a parent; those that were not measured say nothing."""
        return self._strongest(
            (one for one in self.candidates.values() if self._are_siblings(one, candidate)), _SIBLINGS
        )

    def cousins(self, candidate: Candidate) -> list[Candidate]:
        """The strongest programs of other lineages that changed one of the same components."""
        mine = set(self.families.get(candidate.id, ())) - {FREE}
        lineage = self.lineage(candidate)
        found = (
            one
            for key, family in self.families.items()
            if mine & set(family)
            and not self._are_siblings(one := self.candidates[key], candidate)
            and self.lineage(one) != lineage
        )
        return self._strongest(found, _COUSINS)

    def lineage(self, candidate: Candidate) -> str:
        return lineage_of(candidate, self.candidates)

    def _known(self, ids: Iterable[str]) -> list[Candidate]:
        return [self.candidates[key] for key in ids if key in self.candidates and key != self.reference_id]

    @staticmethod
    def _are_siblings(one: Candidate, other: Candidate) -> bool:
        return one.id != other.id and bool(set(one.parents) & set(other.parents))

    def _strongest(self, found: Iterable[Candidate], most: int) -> list[Candidate]:
        measured = [one for one in found if math.isfinite(self.standings[one.id].improvement)]
        return sorted(measured, key=lambda one: (-self.standings[one.id].improvement, one.id))[:most]


def lineage_of(candidate: Candidate, candidates: Mapping[str, Candidate]) -> str:
    """Id of the first ancestor that was made from a baseline, or from nothing; of two parents the first counts."""
    while candidate.parents:
        parent = candidates.get(candidate.parents[0])
        if parent is None or parent.arm == "baseline":
            break
        candidate = parent
    return candidate.id

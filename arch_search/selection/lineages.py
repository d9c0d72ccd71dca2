"""Which programs descend from which, and who may be crossed with whom."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from arch_search.proposals.crossover import crossings
from arch_search.proposals.registry import Toolbox
from arch_search.selection.pool import ParentChoice
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Candidate


def second_parent(
    parent: Candidate,
    choices: Sequence[ParentChoice],
    contents: ArchiveContents,
    *,
    known: Container[str],
    toolbox: Toolbox,
) -> Candidate | None:
    """The first of the policy's choices that gives a new crossing with `parent` and is of another lineage.

    Where there is none, the first of any lineage. Two programs are of one lineage where they share an ancestor, or
    are one of it, that the search made. `known` are the normal forms of programs that there are.
    """
    by_id = {candidate.id: candidate for candidate in contents.candidates}
    mine = ancestry(parent, by_id)
    others = {one.parent.id: one.parent for one in choices if one.parent.arm != "baseline"}
    in_turn = sorted(others.values(), key=lambda one: bool(mine & ancestry(one, by_id)))
    return next((one for one in in_turn if any(crossings(parent, one, known, toolbox))), None)


def ancestry(candidate: Candidate, by_id: Mapping[str, Candidate]) -> set[str]:
    """Ids of a program and of all ancestors of it that the search made."""
    found: set[str] = set()
    waiting = [candidate]
    while waiting:
        one = waiting.pop()
        if one.arm != "baseline" and one.id not in found:
            found.add(one.id)
            waiting += [by_id[parent] for parent in one.parents if parent in by_id]
    return found

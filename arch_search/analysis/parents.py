"""Every program against its own parent: whether a step of the search gained anything. Pure over the archive."""

from __future__ import annotations

from arch_search.analysis.statistics import Comparison, compare, failed_seeds, noise_of, oriented, seed_values
from cognition_db.experience.archive import ArchiveContents


def against_parents(
    contents: ArchiveContents, *, reference_id: str, metric: str, confidence: float
) -> dict[str, Comparison]:
    """Improvement of each measured program over its first parent, paired in the seeds that both were trained with.

    The parent was chosen for these very seeds, so its luck is in them: the comparison is to the child's disadvantage,
    where the parent is not the reference. Programs with a failed seed, and those of failed parents, are left out.
    """
    values = seed_values(contents.evaluations, metric)
    failed = failed_seeds(contents.evaluations, metric)
    sound = {key: seeds for key, seeds in oriented(values, metric).items() if not failed.get(key)}
    noise = noise_of(contents, reference_id=reference_id, metric=metric)
    found: dict[str, Comparison] = {}
    for candidate in contents.candidates:
        parent = candidate.parents[0] if candidate.parents else ""
        if candidate.id in sound and parent in sound:
            pair = {key: sound[key] for key in (parent, candidate.id)}
            found |= compare(pair, reference_id=parent, noise=noise, confidence=confidence)
    return found

"""Origins of ideas: what was said, what of it was founded, and which programs it led to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from arch_search.analysis.provenance import UNSAID, UNSOURCED, provenance
from arch_search.analysis.statistics import standings
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Writing

Invent = Callable[..., Any]
FOUNDED = Writing(idea="i", origin="literature", sources=("a", "b"), unfounded=("b",))
INVENTED = Writing(idea="i", origin="literature", sources=("b",), unfounded=("b",))

ASKED = Writing(calls=("g0001/s000/t0/researcher",))
STEERED = Writing(steering=("ban decay",))


def campaign(candidate_of: Invent, run_of: Invent, try_of: Invent, said: list[Writing | None]) -> ArchiveContents:
    """One program for each record; the first is far better than the reference, the second was never trained."""
    reference = candidate_of("deltanet", arm="baseline", rung="copy", generation=0)
    programs = [candidate_of(f"p{slot}", slot=slot, parents=(reference.id,)) for slot in range(len(said))]
    tries = [try_of(one, slot=slot) for slot, one in enumerate(programs)]
    rng = np.random.default_rng(5)
    runs = [
        run_of(one, seed, recall=(0.9 if one is programs[0] else 0.5) + rng.normal(scale=0.01))
        for one in (reference, *programs)
        for seed in range(4)
        if one is not programs[1]
    ]
    tries = [
        replace(tried, proposal=replace(tried.proposal, writing=writing))
        for tried, writing in zip(tries, said, strict=True)
    ]
    return ArchiveContents(candidates=(reference, *programs), tries=tuple(tries), evaluations=tuple(runs))


def rows(contents: ArchiveContents) -> dict[str, tuple[tuple[int, int], ...]]:
    ranked = standings(contents, reference_id=contents.candidates[0].id, metric="recall_accuracy", confidence=0.95)
    return {
        row.origin: tuple((share.count, share.total) for share in (row.better, row.others, row.proposals))
        for row in provenance(contents, ranked, confidence=0.95)
    }


def test_origins_are_counted_among_the_better_the_others_and_all(
    candidate_of: Invent, run_of: Invent, try_of: Invent
) -> None:
    said = [
        FOUNDED,
        FOUNDED,
        INVENTED,
        Writing(idea="i", origin="analysis"),
        Writing(idea="i", origin="original"),
        ASKED,
        None,
        STEERED,
    ]
    assert rows(campaign(candidate_of, run_of, try_of, said)) == {
        "literature": ((1, 1), (0, 4), (2, 6)),
        UNSOURCED: ((0, 1), (1, 4), (1, 6)),
        "analysis": ((0, 1), (1, 4), (1, 6)),
        "original": ((0, 1), (1, 4), (1, 6)),
        UNSAID: ((0, 1), (1, 4), (1, 6)),
    }


def test_a_campaign_without_records_has_no_table(candidate_of: Invent, run_of: Invent, try_of: Invent) -> None:
    assert rows(campaign(candidate_of, run_of, try_of, [None, None])) == {}

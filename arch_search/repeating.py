"""Repeats: whoever would become a parent is trained again with seeds that nobody knew, and judged by these alone.

The best of many measured programs is partly the luckiest: its own measurement overstates it (the winner's curse), and
a program might have been made to suit seeds that it could know. Not used: a correction of the measured improvement
(needs to know how many were tried, mutations and repairs included).
"""

from __future__ import annotations

from collections.abc import Sequence

from arch_search.campaign import Campaign
from arch_search.closing import contents_with
from arch_search.generation import read_steering, slot_plans
from arch_search.selection.policies import next_parents
from arch_search.steered import excluded
from cognition_db.experience.files import write_atomic
from cognition_db.experience.seal import seal
from cognition_db.records import HIDDEN_SEEDS_FROM, Evaluation, Repeats, canonical_json, sha256_text, to_json


def hidden_seeds(campaign: Campaign) -> tuple[int, ...]:
    """The seeds of all repeats of the campaign, below 2^32; they follow from its secret.

    Raises:
        StoreError: the secret is lost.
    """
    secret = campaign.secret
    count = campaign.config.selection.repeat_seeds
    return tuple(int(seal(secret, "hidden seed", str(index))[:8], 16) | HIDDEN_SEEDS_FROM for index in range(count))


def name_repeats(campaign: Campaign, number: int, evaluations: Sequence[Evaluation], *, reference_id: str) -> Repeats:
    """Decide and record who is trained again: the reference in generation 0, then whoever would become a parent."""
    candidates: tuple[str, ...] = (reference_id,)
    if number:
        contents = contents_with(campaign, number, evaluations)
        selection = campaign.config.selection
        slots = len(slot_plans(campaign.config))
        reference = contents.candidate(reference_id)
        assert reference is not None, "it is trained in generation 0"
        banned = excluded(read_steering(campaign.generation(number)), contents.candidates, reference)
        entrants = next_parents(
            contents, selection, reference_id=reference_id, generation=number, slots=slots, excluded=banned
        )
        candidates = tuple(one.id for one in entrants)
    repeats = Repeats(candidates=candidates, seeds=hidden_seeds(campaign))
    text = canonical_json(to_json(repeats))
    campaign.journal.require_writer()
    write_atomic(campaign.generation(number).repeats, text.encode())
    campaign.journal.append("repeats", {"generation": number, "sha256": sha256_text(text)})
    return repeats

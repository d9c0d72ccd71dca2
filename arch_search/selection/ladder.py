"""The ladder: on which rung the next program is written, by what each rung has gained per GPU-second. Pure and seeded.

A try is worth P(admitted) P(gained) / (seconds of the model + P(admitted) seconds of training). Thompson sampling
(arXiv 1111.1797): both shares are drawn from their posteriors, and the rung that is worth most is taken.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from numpy.random import Generator

from arch_search.analysis.parents import against_parents
from arch_search.config import Campaign, Selection
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Rung, SlotTry


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What came of the tries of the arm `evolve` on one rung."""

    asked: int = 0
    admitted: int = 0  # valid, and none that was there before
    measured: int = 0  # trained, whatever became of it
    gained: int = 0  # better than its parent, the interval of the difference above zero
    writing_s: float = 0.0  # of the model
    training_s: float = 0.0  # wall time of all trainings


def tallies(
    contents: ArchiveContents,
    tries: Sequence[SlotTry],
    *,
    rungs: Sequence[Rung],
    selection: Selection,
    reference_id: str,
) -> dict[Rung, Tally]:
    """One tally per rung; `contents` are the generations before this one, `tries` are those of this one.

    Their order does not matter.
    """
    compared = against_parents(
        contents, reference_id=reference_id, metric=selection.metric, confidence=selection.confidence
    )
    better = {key for key, comparison in compared.items() if comparison.low > 0}
    seconds: dict[str, list[float]] = {}
    for one in contents.evaluations:
        seconds.setdefault(one.task.candidate_id, []).append(one.wall_s)
    written = [one for one in (*contents.tries, *tries) if one.proposal.arm == "evolve"]
    return {rung: _tally([one for one in written if one.proposal.rung == rung], seconds, better) for rung in rungs}


def draw_rung(
    rates: Mapping[Rung, Tally], settings: Campaign, *, generation: int, index: int, attempt: int, rng: Generator
) -> Rung:
    """The rung of try `attempt` at the ladder's slot `index`, counted from 0 in its generation.

    Each rung is tried `ladder_probe` times before any is preferred. One with none admitted of `ladder_stop_after` is
    left; every `ladder_look_again` generations the first try of the first slot goes to one of those.
    """
    unknown = [rung for turn in range(settings.ladder_probe) for rung, one in rates.items() if one.asked <= turn]
    if index < len(unknown):
        return unknown[index]
    left = [rung for rung, one in rates.items() if one.asked >= settings.ladder_stop_after and not one.admitted]
    again, rest = divmod(generation, settings.ladder_look_again)
    if left and rest == 0 and index == 0 and attempt == 0:
        return left[again % len(left)]
    worth = _worth(rates, rng)
    return max([rung for rung in rates if rung not in left] or list(rates), key=worth.__getitem__)


def _tally(tries: Sequence[SlotTry], seconds: Mapping[str, Sequence[float]], better: Collection[str]) -> Tally:
    candidates = [one.candidate.id for one in tries if one.candidate]
    return Tally(
        asked=len(tries),
        admitted=len(candidates),
        measured=sum(key in seconds for key in candidates),
        gained=sum(key in better for key in candidates),
        writing_s=math.fsum(one.proposal.writing.model_s for one in tries if one.proposal.writing),
        training_s=math.fsum(spent for key in candidates for spent in seconds.get(key, ())),
    )


def _worth(rates: Mapping[Rung, Tally], rng: Generator) -> dict[Rung, float]:
    """Gains per GPU-second of every rung, drawn at random from what is known of it.

    Little is known at first, so every rung begins with one success at the rate of all rungs together, and with one
    try and one training of their mean cost.
    """
    total = {
        name: math.fsum(getattr(one, name) for one in rates.values())
        for name in ("asked", "admitted", "measured", "gained", "writing_s", "training_s")
    }
    writing_s, training_s = _mean(total["writing_s"], total["asked"]), _mean(total["training_s"], total["measured"])
    worth = {}
    for rung, one in rates.items():
        admitted = _share(one.admitted, one.asked, (total["admitted"] + 1) / (total["asked"] + 2), rng)
        gained = _share(one.gained, one.measured, (total["gained"] + 1) / (total["measured"] + 2), rng)
        cost = (one.writing_s + writing_s) / (one.asked + 1)
        cost += admitted * (one.training_s + training_s) / (one.measured + 1)
        worth[rung] = admitted * gained / (cost or 1.0)  # no seconds are known before the first training
    return worth


def _share(successes: int, count: int, pooled: float, rng: Generator) -> float:
    """A share drawn from its Beta posterior; the prior is one success at the pooled rate."""
    return float(rng.beta(1.0 + successes, (1.0 - pooled) / pooled + count - successes))


def _mean(total: float, count: float) -> float:
    return total / count if count else 0.0

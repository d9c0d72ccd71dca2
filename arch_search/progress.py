"""How far a campaign is, counted from names and journal lines alone, so that it is quick however large it is."""

from __future__ import annotations

import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arch_search.campaign import Campaign
from arch_search.generation import read_steering
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json

_EVALUATION = re.compile(rb'"generation":(\d+),"key":"([^"]+)","sha256":"[0-9a-f]{64}"\},"kind":"evaluation"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What the journal acknowledges: tries, those admitted, generations closed and the trainings of these."""

    proposed: int
    admitted: int
    closed: int
    trained: int


def acknowledged(campaign: Campaign) -> Counts:
    """Counted over the bytes of the journal, since reading every entry of a large one takes seconds."""
    try:
        text = campaign.paths.journal.read_bytes()
    except FileNotFoundError:
        text = b""
    text = text[: text.rfind(b"\n") + 1]
    tries = text.count(b'"kind":"try"')
    closed = text.count(b'"kind":"generation-closed"')
    # a driver that was killed while it closed a generation has acknowledged some trainings twice
    trained = {key for number, key in _EVALUATION.findall(text) if int(number) < closed}
    return Counts(
        proposed=tries,
        admitted=tries - text.count(b'"candidate":null'),
        closed=closed,
        trained=len(trained),
    )


def trainings_done(campaign: Campaign, counts: Counts) -> int:
    """Trainings with a result on disk."""
    paths = campaign.generation(counts.closed)
    sharded = {name.rpartition("-a")[0] for name in _names(paths.shards)}
    names = [name for name in _names(paths.units) if re.fullmatch(r"g\d+-u\d+", name)]
    # to list a hundred thousand folders takes seconds
    known = [name for name in names if name in sharded and campaign.config.slurm.tasks_per_unit == 1]
    looked_at = [name for name in names if name not in sharded or campaign.config.slurm.tasks_per_unit > 1]
    results = [name for unit in looked_at for name in _names(paths.units / unit) if re.search(r"-s\d+\.json$", name)]
    return counts.trained + len(known) + len(results)


def seconds_left(campaign: Campaign, done: int) -> float | None:
    """Estimate from the share of trainings done; None while there is nothing to estimate from."""
    left = tasks_planned(campaign) - done
    return (time.time() - campaign.started_unix) * left / done if done and left > 0 else None


def tasks_planned(campaign: Campaign) -> int:
    """Trainings the whole campaign will run if every slot is filled and each generation has parents to repeat."""
    config, selection = campaign.config.campaign, campaign.config.selection
    slots: int = sum(asdict(config.slots).values())
    repeated = min(selection.parents_from_top, config.slots.entrants) * selection.repeat_seeds
    per_generation = slots * config.seeds_per_candidate + repeated
    by_hand = sum(len(read_steering(campaign.generation(one)).programs) for one in range(1, config.generations + 1))
    baselines = len(config.baselines) * config.baseline_seeds
    first = config.reference_seeds + baselines + selection.repeat_seeds
    return first + config.generations * per_generation + by_hand * config.seeds_per_candidate


def best_in_words(best: dict[str, Any] | None, metric: str) -> str:
    """The best program of the search and the interval of its improvement over the reference."""
    if best is None:
        return "nothing measured yet"
    if best["low"] is None:
        return f"{best['name']}: {best['improvement']:+.3f} {metric}, noise not known yet"
    return (
        f"{best['name']}: {metric}, improvement over the reference {best['improvement']:+.3f} "
        f"[{best['low']:+.3f}, {best['high']:+.3f}]: {best['verdict'].replace('_', ' ')}"
    )


def read_results(campaign: Campaign) -> dict[str, Any] | None:
    """What the last report said; None before there is one."""
    try:
        results: dict[str, Any] = read_json(campaign.paths.results)
    except StoreError:
        return None
    return results


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []

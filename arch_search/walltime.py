"""Wall time of a work unit, estimated from finished trainings: what asks for less is started sooner by backfill."""

from __future__ import annotations

import math
from collections.abc import Sequence

from arch_search.campaign import Campaign

LEAST_TASKS = 3  # with fewer finished trainings nothing is estimated
LEAST_MIN = 5
_SHARE = 0.95  # trainings that the estimate covers; the slowest are continued after their time limit
_MARGIN = 1.5  # nodes differ, and neighbours on a node slow a training down
_START_S = 120.0  # starting the interpreter and copying the corpus, once for each unit


def estimate_min(campaign: Campaign, *, round_number: int = 1) -> int | None:
    """Minutes to ask for; None where too little was measured at this stage.

    Doubled with every round, so that an estimate that was too short does not stay so. Never above slurm.timeout_min.
    """
    stage, slurm = campaign.config.stage, campaign.config.slurm
    walls_s = [
        one.wall_s
        for one in campaign.contents().evaluations
        if one.ending == "finished" and one.task.stage == stage.name
    ]
    needed_min = unit_min(walls_s, tasks_per_unit=slurm.tasks_per_unit, warn_s=slurm.warn_s)
    return None if needed_min is None else min(slurm.timeout_min, needed_min * 2 ** (round_number - 1))


def unit_min(walls_s: Sequence[float], *, tasks_per_unit: int, warn_s: float) -> int | None:
    """Minutes that nearly every unit needs, from the wall seconds of single trainings; None where these are too few.

    `warn_s` is lost at the end: so long before its time limit a unit is told to stop.
    """
    if len(walls_s) < LEAST_TASKS:
        return None
    covered_s = sorted(walls_s)[math.ceil(_SHARE * len(walls_s)) - 1]
    return max(LEAST_MIN, math.ceil((covered_s * tasks_per_unit * _MARGIN + _START_S + warn_s) / 60))

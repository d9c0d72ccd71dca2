"""The budget: hours of GPUs, or of cores where work units ask for none, that a campaign has used, from its files.

A unit pays from its first sign of life to its result, its earlier starts included: GPUs and cores of its element times
the wall time. `campaign.max_gpu_hours` is a hard stop.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arch_search import config as settings
from arch_search.analysis.costs import Budget
from arch_search.campaign import Campaign
from arch_search.errors import CampaignError
from arch_search.paths import CampaignPaths, GenerationPaths, UnitPaths
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.records import canonical_json

RUNNING = "running"  # begun, no result yet
LOST = "lost"  # begun, and over without a result
SERVER = "model server"  # as a job
_EVALUATION = re.compile(r"[0-9a-f]{16}-.+-s\d+\.json")
_GPU_OPTIONS = ("gpus", "gpus-per-node", "gpus-per-task", "gres")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What each element of one submission holds while it runs."""

    gpus: int
    cores: int
    timeout_min: int


@dataclass(slots=True, kw_only=True)
class _Spent:
    """Hours by outcome; `tasks` and `task_hours` are those of finished and failed trainings, in hours of wall time."""

    gpu: dict[str, float]
    core: dict[str, float]
    tasks: int = 0
    task_hours: float = 0.0

    @classmethod
    def nothing(cls) -> _Spent:
        return cls(gpu=defaultdict(float), core=defaultdict(float))

    def add(self, outcome: str, hours: float, asked: Asked) -> None:
        self.gpu[outcome] += hours * asked.gpus
        self.core[outcome] += hours * asked.cores
        if outcome not in (RUNNING, LOST, SERVER):
            self.tasks += 1
            self.task_hours += hours

    def include(self, other: _Spent) -> None:
        for mine, theirs in ((self.gpu, other.gpu), (self.core, other.core)):
            for outcome, hours in theirs.items():
                mine[outcome] += hours
        self.tasks += other.tasks
        self.task_hours += other.task_hours


class Expenses:
    """What a campaign has used. It remembers units that are over, so that a second look reads only what runs."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self._over: dict[str, _Spent] = {}
        self._settled: dict[int, _Spent] = {}
        self._units_hold_gpus = False

    def budget(self) -> Budget:
        """As of now."""
        return self._budget(self._total())

    def require(self, *, units: int, tasks: int) -> None:
        """Raise CampaignError where a round of so many units and trainings could cost more than is left.

        A training is taken to cost what the measured ones cost on average, a unit at most its time limit, and exactly
        that before anything was measured.
        """
        total = self._total()
        budget = self._budget(total)
        if budget.left is None:
            return
        asked = asked_of(self._campaign.config)
        each = asked.gpus if budget.unit == "GPU-hours" else asked.cores
        hours = units * asked.timeout_min / 60
        if total.tasks:
            hours = min(hours, tasks * total.task_hours / total.tasks)
        cost = hours * each
        if cost > budget.left:
            by_what = "by what trainings cost so far" if total.tasks else "by their time limits"
            raise CampaignError(
                f"{_stop_line(budget)}, {budget.left:.3g} are left, and the next {units} units may cost {cost:.3g} "
                f"{by_what}; {_how_to_go_on(budget.used + cost)}"
            )

    def settle(self, number: int) -> None:
        """Keep what a generation has used in one file: its units may be removed after that."""
        spent = self._of_generation(number)
        data = {
            "gpu_hours": dict(spent.gpu),
            "core_hours": dict(spent.core),
            "tasks": spent.tasks,
            "task_hours": spent.task_hours,
        }
        write_atomic(self._campaign.generation(number).spent, canonical_json(data).encode())

    def _budget(self, total: _Spent) -> Budget:
        config = self._campaign.config
        by_outcome = total.gpu if self._units_hold_gpus else total.core
        return Budget(
            unit="GPU-hours" if self._units_hold_gpus else "core-hours",
            gpu_hours=math.fsum(total.gpu.values()),
            core_hours=math.fsum(total.core.values()),
            by_outcome={outcome: hours for outcome, hours in sorted(by_outcome.items()) if hours},
            limit=config.campaign.max_gpu_hours,
        )

    def _total(self) -> _Spent:
        total = _Spent.nothing()
        for number in range(self._campaign.config.campaign.generations + 1):
            total.include(self._of_generation(number))
        self._units_hold_gpus = asked_of(self._campaign.config).gpus > 0 or any(total.gpu.values())
        for seconds in _seconds_of_servers(self._campaign.paths):
            total.add(SERVER, seconds / 3600, _asked_by_server(self._campaign.config.llm.job))
        return total

    def _of_generation(self, number: int) -> _Spent:
        paths = self._campaign.generation(number)
        if number not in self._settled and paths.spent.exists():
            self._settled[number] = _read_spent(paths.spent)
        if number in self._settled:
            return self._settled[number]
        spent = _Spent.nothing()
        sharded = {name.rpartition("-a")[0] for name in _names(paths.shards)}
        rates: dict[int, Asked] = {}
        for name in _names(paths.units):
            if not re.fullmatch(r"g\d+-u\d+", name):
                continue
            if name not in self._over or name not in sharded:
                self._over[name] = self._of_unit(paths, paths.unit(name), rates, is_over=name in sharded)
            spent.include(self._over[name])
        return spent

    def _of_unit(self, paths: GenerationPaths, unit: UnitPaths, rates: dict[int, Asked], *, is_over: bool) -> _Spent:
        spent = _Spent.nothing()
        for outcome, attempt, seconds in _tasks_of(unit):
            if attempt not in rates:
                rates[attempt] = asked_in(_read(paths.submission(attempt)) or {}, self._campaign.config)
            spent.add(LOST if is_over and outcome == RUNNING else outcome, seconds / 3600, rates[attempt])
        return spent


def spent(campaign: Campaign) -> Budget:
    """What the campaign has used by now, from its files alone."""
    return Expenses(campaign).budget()


def stop_reason(budget: Budget) -> str | None:
    """One line where more is used than campaign.max_gpu_hours allows; None where it is not."""
    if budget.limit is None or budget.used <= budget.limit:
        return None
    return f"{_stop_line(budget)}; {_how_to_go_on(budget.used)}"


def asked_of(config: settings.Config, *, timeout_min: int | None = None) -> Asked:
    """What one unit holds by the settings of this start; local processes hold a core for each thread."""
    slurm = config.slurm
    return Asked(
        gpus=gpus_asked(slurm),
        cores=slurm.cpus_per_task if slurm.launcher == "cluster" else config.stage.threads,
        timeout_min=timeout_min or slurm.timeout_min,
    )


def gpus_asked(asks: settings.Slurm | settings.LlmJob) -> int:
    """GPUs of one unit or server, from gres, gpus_per_task or the same options in extra_sbatch."""
    extra = {key.replace("_", "-"): str(value) for key, value in asks.extra_sbatch.items()}
    texts = [asks.gres and _only_gpus(asks.gres), asks.gpus_per_task]
    texts += [_only_gpus(extra[key]) if key == "gres" else extra[key] for key in _GPU_OPTIONS if key in extra]
    return max((_count(text) for text in texts if text), default=0)


def asked_in(record: Mapping[str, Any], config: settings.Config) -> Asked:
    """What each element holds by the record of its submission; by the settings where that does not say."""
    return Asked(**record["asked"]) if "asked" in record else asked_of(config)


def asked_json(asked: Asked) -> dict[str, int]:
    """What the record of a submission keeps, so that its price stays known when the settings change."""
    return {"gpus": asked.gpus, "cores": asked.cores, "timeout_min": asked.timeout_min}


def _only_gpus(gres: str) -> str:
    """The GPUs of a gres text: "gpu:a100:2,shard:1" and "gres/gpu:2(S:0)" have 2."""
    parts = [re.sub(r"\(.*?\)|^gres[/:]", "", part.strip()) for part in gres.split(",")]
    return ",".join(part.partition(":")[2] or "1" for part in parts if part.partition(":")[0] == "gpu")


def _count(text: str) -> int:
    """Number of GPUs in "2", "a100:2", "a100" or several of these divided by commas."""
    last = [part.rpartition(":")[2].partition("=")[2] or part.rpartition(":")[2] for part in text.split(",")]
    return sum(int(one) if one.isdigit() else 1 for one in last if one)


def _tasks_of(unit: UnitPaths) -> Iterator[tuple[str, int, float]]:
    """Outcome, round and seconds of every task that was begun; a record is read no further than that."""
    recorded = [name for name in _names(unit.root) if _EVALUATION.fullmatch(name)]
    # a damaged record is the business of fsck, and must not keep status from answering
    with suppress(KeyError, TypeError, ValueError):
        for name in recorded:
            if (data := _read(unit.root / name)) is not None:
                yield str(data["ending"]), int(data["task"]["attempt"]), float(data["wall_s"])
        beat = _read(unit.heartbeat)
        if beat is not None and f"{beat['task']}.json" not in recorded:
            yield RUNNING, int(beat["attempt"]), float(beat["wall_s"])


def _seconds_of_servers(paths: CampaignPaths) -> Iterator[float]:
    """For how long each model server that was a job has held its node; its endpoint file is its heartbeat."""
    for name in _names(paths.servers):
        endpoint = paths.server(name).endpoint
        served = _read(endpoint)
        with suppress(OSError, KeyError, TypeError, ValueError):
            if served is not None:
                yield max(0.0, endpoint.stat().st_mtime - float(served["started_unix"]))


def _asked_by_server(job: settings.LlmJob) -> Asked:
    return Asked(gpus=gpus_asked(job), cores=job.cpus_per_task, timeout_min=job.timeout_min)


def _read_spent(path: Path) -> _Spent:
    data = read_json(path)
    return _Spent(
        gpu=defaultdict(float, data["gpu_hours"]),
        core=defaultdict(float, data["core_hours"]),
        tasks=data["tasks"],
        task_hours=data["task_hours"],
    )


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        data: Mapping[str, Any] = read_json(path)
    except StoreError:
        return None
    return data


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stop_line(budget: Budget) -> str:
    return f"campaign.max_gpu_hours={budget.limit:g}: {budget.used:.3g} {budget.unit} are used"


def _how_to_go_on(needed: float) -> str:
    return f"to go on, run the same command with campaign.max_gpu_hours={_round_up(needed):g} or more"


def _round_up(hours: float) -> float:
    """To two digits, upwards."""
    digits = 1 - math.floor(math.log10(hours)) if hours > 0 else 0
    return float(math.ceil(hours * 10**digits) / 10**digits)

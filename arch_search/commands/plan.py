"""`arch-search plan`: what would be submitted next, to the letter; nothing is written and nothing submitted."""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from arch_search.budget import asked_of
from arch_search.campaign import Campaign, campaign_folder, open_campaign
from arch_search.commands.run import CAMPAIGNS
from arch_search.config import Config
from arch_search.dispatch import order_of, wall_time_min
from arch_search.errors import ConfigError
from arch_search.generation import admitted, open_slots, packs_of, read_steering, read_tries, rounds_of, seeds_for
from arch_search.launching import make_launcher, refused_requests
from arch_search.paths import CampaignPaths
from arch_search.settings import config_sha256, load_config
from cognition_db.experience.files import read_json
from cognition_db.records import Repeats
from slurm import ClusterLauncher, SlurmError, WorkUnit, site
from slurm.cluster import Rehearsal

# what Slurm takes where slurm.conf says nothing
_RECKONED = "reckoned with MaxArraySize=1001, Slurm's own default"
_DEFAULT_SITE = site.SiteLimits(cluster="", version="", max_array_size=1001, accounting=False, min_job_age_s=300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The next round of a campaign: its units, and how many slots were counted as if each gave a program."""

    generation: int
    number: int
    units: tuple[WorkUnit, ...]
    tasks: int
    open_slots: int


def run(options: argparse.Namespace) -> int:
    campaign = _campaign(options.what)
    config = campaign.config
    if campaign.paths.campaign_json.exists() and campaign.is_finished():
        print(f"{campaign.paths.root}: finished; nothing is left to submit")
        return 0
    upcoming = next_round(campaign)
    for line in _head(campaign, upcoming):
        print(line)
    launcher = make_launcher(campaign)
    if not isinstance(launcher, ClusterLauncher):
        print(f"arrays      none: slurm.launcher={config.slurm.launcher} runs units as processes here")
        return 0
    limits, known = _limits(config)
    order = order_of(campaign, upcoming.generation, upcoming.number, upcoming.units)
    rehearsal = launcher.rehearse(order, limits=limits or _DEFAULT_SITE)
    refusals = refused_requests(config.slurm, config.llm.job, config.llm.kind) if limits else []
    told = (f"refused     {refusal}" for refusal in refusals)
    for line in (known, *told, *_arrays(rehearsal, upcoming), *_scripts(rehearsal.scripts)):
        print(line)
    return 1 if refusals else 0


def next_round(campaign: Campaign) -> Round:
    """The round of the open generation that is submitted or to be submitted; slots still open are counted in full."""
    number = campaign.generations_closed() if campaign.paths.campaign_json.exists() else 0
    paths, config = campaign.generation(number), campaign.config
    tries = read_tries(paths)
    left = len(open_slots(number, tries, config, read_steering(paths)))
    rounds = rounds_of(paths)
    if rounds:
        packs = read_json(paths.manifest(rounds[-1]))["packs"]
        names = [pack["unit"] for pack in packs]
        tasks = sum(len(pack["tasks"]) for pack in packs)
    else:
        found = admitted(tries)
        tasks = sum(len(seeds_for(candidate, config)) for candidate in found) + _tasks_of_open(campaign, number)
        names = [pack.unit for pack in packs_of(number, found, config, repeats=Repeats(), attempt=1)]
        count = math.ceil(tasks / config.slurm.tasks_per_unit)
        names += [f"g{number:04d}-u{index:04d}" for index in range(len(names), count)]
    units = tuple(WorkUnit(name=name, index=index) for index, name in enumerate(names))
    return Round(generation=number, number=rounds[-1] if rounds else 1, units=units, tasks=tasks, open_slots=left)


def _tasks_of_open(campaign: Campaign, number: int) -> int:
    """Trainings of the slots that still want a program, if each gets one."""
    config, paths = campaign.config.campaign, campaign.generation(number)
    wanting = open_slots(number, read_tries(paths), campaign.config, read_steering(paths))
    slots = [plan.slot for plan, _ in wanting]
    if number:
        return len(slots) * config.seeds_per_candidate
    return sum(config.baseline_seeds if slot else config.reference_seeds for slot in slots)


def _campaign(what: Sequence[str]) -> Campaign:
    """The campaign in a folder, or one that the settings describe and that is only thought of."""
    if len(what) == 1 and "=" not in what[0]:
        return open_campaign(Path(what[0]))
    if not what:
        raise ConfigError("give a campaign folder, or settings as campaign=demo slurm=cluster")
    config = load_config(what)
    folder = campaign_folder(config, base=CAMPAIGNS)
    if CampaignPaths(folder).campaign_json.exists():
        return replace(open_campaign(folder), config=config)
    return Campaign(
        paths=CampaignPaths(folder),
        uuid="0" * 32,
        config=config,
        config_sha256=config_sha256(config),
        command="",
        started_unix=0.0,
        versions={},
    )


def _head(campaign: Campaign, upcoming: Round) -> Iterator[str]:
    config = campaign.config
    exists = campaign.paths.campaign_json.exists()
    yield f"campaign    {campaign.paths.root}" + ("" if exists else " (does not exist yet: its uuid is shown as zeros)")
    open_slots_text = f", {upcoming.open_slots} slots without a program counted in" if upcoming.open_slots else ""
    yield (
        f"generation  {upcoming.generation}, round {upcoming.number}: {len(upcoming.units)} units, "
        f"{upcoming.tasks} trainings{open_slots_text}"
    )
    estimated = wall_time_min(campaign, upcoming.number)
    limit_min = estimated or config.slurm.timeout_min
    source = (
        f"from finished trainings; at most slurm.timeout_min={config.slurm.timeout_min}"
        if estimated
        else "slurm.timeout_min"
    )
    yield f"wall time   {limit_min} min per unit ({source})"
    asked = asked_of(config)
    each, unit = (asked.gpus, "GPU-hours") if asked.gpus else (asked.cores, "core-hours")
    walls_s = [one.wall_s for one in campaign.contents().evaluations if one.task.stage == config.stage.name]
    likely = (
        f", about {upcoming.tasks * statistics.mean(walls_s) / 3600 * each:.3g} by past trainings" if walls_s else ""
    )
    yield f"cost        at most {len(upcoming.units) * limit_min / 60 * each:.3g} {unit}{likely}"


def _limits(config: Config) -> tuple[site.SiteLimits | None, str]:
    """The limits of this site, None where no Slurm answers, and a line that says what is reckoned with."""
    slurm = config.slurm
    if shutil.which("scontrol") is None:
        return None, f"site        no Slurm here; {_RECKONED}"
    try:
        limits = site.read_user_limits(
            site.read_limits(), account=slurm.account, qos=slurm.qos, partition=slurm.partition
        )
    except SlurmError as error:
        return None, f"site        {error}; {_RECKONED}"
    known = [f"MaxArraySize={limits.max_array_size}"]
    if limits.max_submit_jobs is not None:
        known.append(f"MaxSubmitJobs={limits.max_submit_jobs} ({limits.submit_source})")
    if limits.max_jobs is not None:
        known.append(f"MaxJobs={limits.max_jobs}")
    return limits, f"site        {limits.cluster}, Slurm {limits.version}: {', '.join(known)}"


def _arrays(rehearsal: Rehearsal, upcoming: Round) -> Iterator[str]:
    plan = rehearsal.plan
    throttle = f", at most {plan.throttle} running at once" if plan.throttle else ""
    yield (
        f"arrays      {len(plan.arrays)} of up to {max(array.count for array in plan.arrays)} elements, "
        f"{len(upcoming.units)} elements in all{throttle}"
    )
    waits = f"the first {plan.submitted_at_once} elements at once, the rest as elements leave the queue"
    yield f"waves       {plan.waves}: " + ("everything at once" if plan.waves == 1 else waits)


def _scripts(scripts: Sequence[str]) -> Iterator[str]:
    """The first script whole, and of the others the lines that differ."""
    first = scripts[0].splitlines()
    yield f"\n# batch script 1 of {len(scripts)}"
    yield from first
    for index, script in enumerate(scripts[1:], start=2):
        yield f"\n# batch script {index} of {len(scripts)}: as the first, but"
        same = set(first)
        yield from (line for line in script.splitlines() if line not in same)

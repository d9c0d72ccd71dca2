"""`arch-search status`: where a campaign stands, from its files; Slurm is asked only with --now."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from arch_search.analysis.costs import Budget
from arch_search.analysis.status import budget_values
from arch_search.analysis.status_lines import status_lines
from arch_search.analysis.text import duration
from arch_search.budget import spent, stop_reason
from arch_search.campaign import Campaign, open_campaign
from arch_search.dispatch import ROOM_MB, probe_of
from arch_search.generation import recorded_packs
from arch_search.launching import queue_poll_s, unit_resources
from arch_search.lease import Machine, current_holder, is_dead
from arch_search.progress import acknowledged, best_in_words, read_results, seconds_left, tasks_planned, trainings_done
from arch_search.serving.endpoint import read_job_endpoint, read_record
from arch_search.sighting import Sighting, array_lines, read_sighting
from arch_search.steering_files import paused_words
from arch_search.stopping import stop_requested
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json
from slurm.cluster import ClusterLauncher
from slurm.files import arrays_of
from slurm.units import Submission, WorkUnit

_WATCH_EVERY_S = 5
_STYLES = {"plain": "", "head": "bold", "warning": "bold yellow"}
# Above this many tries the ranking is that of the last report, so that status answers within two seconds.
_MOST_TRIES_READ = 3000


def run(options: argparse.Namespace) -> int:
    campaign = open_campaign(Path(options.dir))
    if options.json:
        return _repeat(campaign, options, lambda facts: print(json.dumps(facts, indent=1)))
    # a terminal of any width shows the same 80 columns; rich leaves colours out in a pipe and with NO_COLOR
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not options.watch or not console.is_terminal:
        return _repeat(campaign, options, lambda facts: console.print(_styled(facts)))
    with Live(console=console, auto_refresh=False) as live:
        return _repeat(campaign, options, lambda facts: live.update(_styled(facts), refresh=True))


def _repeat(campaign: Campaign, options: argparse.Namespace, show: Callable[[dict[str, Any]], None]) -> int:
    """Show it once, with --watch until the campaign is finished."""
    while True:
        facts = status(campaign, shown_dir=options.dir, now=options.now)
        show(facts)
        if not options.watch or facts["finished"]:
            return 0
        sys.stdout.flush()
        time.sleep(_WATCH_EVERY_S)


def _styled(facts: dict[str, Any]) -> Text:
    return Text("\n").join(Text(line.text, style=_STYLES[line.tone]) for line in status_lines(facts))


def status(campaign: Campaign, *, shown_dir: str | None = None, now: bool = False) -> dict[str, Any]:
    """Where the campaign stands, as JSON values; the keys are part of the command's contract."""
    config, counts = campaign.config, acknowledged(campaign)
    number, finished = counts.closed, counts.closed > campaign.config.campaign.generations
    done = trainings_done(campaign, counts)
    is_large = counts.proposed > _MOST_TRIES_READ
    results = _results(campaign, is_large=is_large)
    sighting = None if finished else _sighting(campaign, number, now=now)
    budget = sighting.budget if sighting and is_large and not now else _budget(campaign)
    return {
        "dir": shown_dir or str(campaign.paths.root),
        "campaign": config.campaign.name,
        "uuid": campaign.uuid,
        "generation": min(number, config.campaign.generations),
        "generations_total": config.campaign.generations,
        "finished": finished,
        "tasks": {} if finished else _units(campaign, number),
        "metric": config.selection.metric,
        "confidence": config.selection.confidence,
        **results,
        "best_in_words": best_in_words(results["best"], config.selection.metric),
        "seconds_left": None if finished else seconds_left(campaign, done),
        "proposed": counts.proposed,
        "admitted": counts.admitted,
        "trainings_done": done,
        "trainings_planned": tasks_planned(campaign),
        "report": str(campaign.paths.report) if campaign.paths.report.exists() else None,
        "budget": budget_values(budget),
        "driver": _driver(campaign, finished=finished),
        "model_server": _model_server(campaign, results["tokens"]),
        "seen_unix": sighting.unix if sighting else None,
        "seen": _seen(sighting, now=now),
        "arrays": _arrays(sighting),
        "stopped_by": [] if finished else _stopped_by(campaign, budget),
        "last_event": _last_line(campaign.paths.driver_log),
    }


def _results(campaign: Campaign, *, is_large: bool) -> dict[str, Any]:
    """Ranking and cost of the model; of a large campaign as the last report has them."""
    kept = read_results(campaign) if is_large else None
    if kept is not None:
        return kept
    # numerical libraries take longer to load than all else here
    from arch_search.reporting import current_results

    return current_results(campaign)


def _sighting(campaign: Campaign, number: int, *, now: bool) -> Sighting | None:
    """What the driver last saw, or what Slurm says now; None where that was an earlier generation."""
    sighting = read_sighting(campaign.paths.sighting)
    if sighting is None or sighting.generation != number:
        return None
    return _seen_now(campaign, sighting) if now else sighting


def _seen_now(campaign: Campaign, before: Sighting) -> Sighting:
    """The same arrays, asked of Slurm in this moment; those of other launchers tell only their driver how they are.

    Raises:
        UnavailableError: Slurm does not answer.
    """
    paths = campaign.generation(before.generation)
    submission = Submission.from_json(read_json(paths.submission(before.round))["submission"])
    if submission.kind != "cluster":
        return before
    slurm = campaign.config.slurm
    launcher = ClusterLauncher(unit_resources(slurm), poll_s=queue_poll_s(slurm), ledger=campaign.paths.slurm_calls)
    units = [WorkUnit(name=name, index=index) for index, name in enumerate(submission.units)]
    lines = array_lines(
        submission,
        arrays_of(submission),
        launcher.look(submission, units, probe_of(paths)),
        launcher.notes(submission),
        timeout_min=before.lines[0].timeout_min,
    )
    return replace(before, unix=time.time(), lines=lines)


def _budget(campaign: Campaign) -> Budget:
    """As of now; the limit is that of the last driver, since it may change between two starts."""
    seen = read_sighting(campaign.paths.sighting)
    budget = spent(campaign)
    return replace(budget, limit=seen.budget.limit) if seen else budget


def _units(campaign: Campaign, number: int) -> dict[str, int]:
    """Units of the open generation: with a shard, with a heartbeat, or still waiting."""
    paths = campaign.generation(number)
    names = _unit_names(campaign, number)
    done = {name.rpartition("-a")[0] for name in _listed(paths.shards)} & names
    undone = names - done
    begun = {name for name in _listed(paths.units) if name in undone and paths.unit(name).heartbeat.exists()}
    return {"done": len(done), "begun": len(begun), "waiting": len(names) - len(done) - len(begun)}


def _unit_names(campaign: Campaign, number: int) -> set[str]:
    paths = campaign.generation(number)
    if not paths.repeats.exists():
        # the first round has all units, and its record is much shorter than all candidates
        with suppress(StoreError, KeyError):
            return set(read_json(paths.submission(1))["submission"]["units"])
    return {pack.unit for pack in recorded_packs(number, paths, campaign.config)}


def _listed(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _seen(sighting: Sighting | None, *, now: bool) -> str:
    if sighting is None:
        return ""
    age = duration(max(0.0, time.time() - sighting.unix))
    return "as Slurm says now" if now else f"as the driver saw it {age} ago; --now asks Slurm"


def _arrays(sighting: Sighting | None) -> list[dict[str, Any]]:
    if sighting is None:
        return []
    return [
        {
            "job_id": line.job_id or None,
            "generation": sighting.generation,
            "round": sighting.round,
            "elements": line.elements,
            "timeout_min": line.timeout_min,
            "states": line.states,
            "notes": line.notes,
        }
        for line in sighting.lines
    ]


def _driver(campaign: Campaign, *, finished: bool) -> dict[str, Any]:
    """Who drives; `running` is null where only watching the lease can tell."""
    holder = current_holder(campaign.paths)
    if holder is None:
        return {"running": False, "words": "none" if finished else f"none; {_go_on(campaign)}"}
    dead = is_dead(holder, Machine.here())
    words = holder.words() if not dead else f"ended without a word ({holder.words()}); {_go_on(campaign)}"
    return {"running": None if dead is None else not dead, "words": words}


def _go_on(campaign: Campaign) -> str:
    return f"to go on: arch-search run campaign.dir={campaign.paths.root} and your other settings"


def _model_server(campaign: Campaign, tokens: dict[str, Any]) -> str:
    """What answers as the language model, and how much it has answered."""
    llm = campaign.config.llm
    where = f"recorded replies of {llm.recording}" if llm.kind == "recorded" else f"{llm.kind}: {llm.model}"
    record = read_record(campaign.paths.endpoint)
    if record is not None:
        where += f" on {record.host}, {'ready' if record.ready else 'loading'}"
    for name in sorted(_listed(campaign.paths.servers)):
        paths = campaign.paths.server(name)
        if not paths.over.exists():
            served = read_job_endpoint(paths.endpoint)
            where += f"; {name} job {served.job_id} on {served.node}" if served else f"; {name} not ready yet"
    return f"{where}; {tokens['calls']} replies, {tokens['reply']} tokens"


def _stopped_by(campaign: Campaign, budget: Budget) -> list[str]:
    """Why nothing new is started, a line for each reason."""
    reasons = []
    stop = stop_requested(campaign.paths)
    if stop is not None:
        reasons.append(f"{stop.reason} holds it; {_go_on(campaign)}")
    if paused := paused_words(campaign):
        reasons.append(paused)
    over = stop_reason(budget)
    if over is not None:
        reasons.append(over)
    free_mb = shutil.disk_usage(campaign.paths.root).free / 1e6
    if free_mb < ROOM_MB:
        reasons.append(f"{free_mb:.0f} MB are free on the disk of the campaign, at least {ROOM_MB} are needed")
    return reasons


def _last_line(log: Path) -> str | None:
    """The last event the driver told of."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 2000))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return None
    return lines[-1] if lines else None

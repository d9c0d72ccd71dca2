"""What a task costs us to plan, write ahead, submit and track, against submitit's map_array and raw sbatch.

Run: python tests/benchmarks/bench_submission_cost.py [tasks] [repeats]     default: 10000 5

All three submit the same tasks to the same recorded sbatch, one after the other in each repeat. submitit's column is
the submission alone: it has no plan, and its tracking is one sacct for all jobs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import submitit

from arch_search.campaign import Campaign
from arch_search.dispatch import order_of
from arch_search.generation import packs_of
from arch_search.worker.manifest import Manifest
from arch_search.worker.manifest import write as write_manifest
from cognition_db.records import Candidate, Pack, Repeats
from slurm import ClusterLauncher, Evidence, Resources, Submission, WorkUnit
from slurm.files import arrays_of
from tests.benchmarks.recorded_slurm import (
    SCRATCH,
    RecordedSlurm,
    cpu_s,
    keep_table,
    large_campaign,
    made_candidates,
    queue_rows,
)

WANTED_SHARE = 0.2
PACK = 4
PLAN, OURS = "ours: packs and manifest of the round", "ours: array plan, write ahead, submit"
LOOK = "ours: one look at all"
SUBMITIT, RAW = "submitit map_array", "raw sbatch"
ROWS = (PLAN, OURS, LOOK, SUBMITIT, RAW)


def main(tasks: int = 10_000, repeats: int = 5) -> None:
    columns = []
    for pack in (1, PACK):
        with tempfile.TemporaryDirectory(dir=SCRATCH) as name:
            slurm = RecordedSlurm(Path(name) / "slurm", max_array_size=tasks + 1)
            with slurm.on_path():
                campaign = large_campaign(Path(name) / "c", f"slurm.tasks_per_unit={pack}")
                columns.append(_medians(campaign, slurm, made_candidates(tasks), repeats))
    lines = [f"{f'CPU microseconds a task, {tasks:,} tasks':40}{'one a unit':>12}{f'packs of {PACK}':>12}"]
    for row in ROWS:
        lines.append(f"{row:40}{''.join(f'{column[row] / tasks * 1e6:>12.1f}' for column in columns)}")
    for title, rows in (
        ("ours / submitit", (PLAN, OURS, LOOK)),
        ("ours without the manifest / submitit", (OURS, LOOK)),
    ):
        shares = [sum(column[row] for row in rows) / column[SUBMITIT] for column in columns]
        lines.append(f"{title:40}{''.join(f'{share:>12.2f}' for share in shares)}")
    lines += ["", f"Medians of {repeats} repeats, files on {SCRATCH or 'disk'}. Wanted: at most {WANTED_SHARE:g}."]
    keep_table("submission_cost", lines)


def _medians(campaign: Campaign, slurm: RecordedSlurm, candidates: list[Candidate], repeats: int) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for repeat in range(repeats):
        for row, seconds in _costs(campaign, slurm, candidates, campaign.paths.root / str(repeat)).items():
            found.setdefault(row, []).append(seconds)
    return {row: statistics.median(values) for row, values in found.items()}


def _costs(campaign: Campaign, slurm: RecordedSlurm, candidates: list[Candidate], folder: Path) -> dict[str, float]:
    launcher = ClusterLauncher(Resources(cpus_per_task=1, memory_gb=4, timeout_min=60), poll_s=0.001)
    receipts: list[Submission] = []
    slurm.set_queue("")
    packs: list[Pack] = []
    plan = cpu_s(lambda: packs.extend(_plan(campaign, candidates, folder / "manifest-001.json")))
    ours = cpu_s(lambda: receipts.append(_submit(launcher, campaign, packs, folder / "ours")))
    receipt, count = receipts[0], len(receipts[0].units)
    units = [WorkUnit(name=name, index=index) for index, name in enumerate(receipt.units)]
    slurm.set_queue(queue_rows(arrays_of(receipt), receipt.comment, done=0, running=count // 20))
    look = cpu_s(lambda: launcher.states(receipt, units, lambda unit: Evidence(done=False)))
    executor = submitit.SlurmExecutor(folder / "submitit")
    executor.update_parameters(time=60, cpus_per_task=1, mem="4G", array_parallelism=count)
    theirs = cpu_s(lambda: executor.map_array(_task, [str(folder)] * count, range(count)))
    script = folder / "raw.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    command = ["sbatch", f"--array=0-{count - 1}", str(script)]
    raw = cpu_s(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    return {PLAN: plan, OURS: ours, LOOK: look, SUBMITIT: theirs, RAW: raw}


def _plan(campaign: Campaign, candidates: list[Candidate], path: Path) -> tuple[Pack, ...]:
    """The packs of a round, and the manifest that its elements read."""
    config = campaign.config
    packs = packs_of(1, candidates, config, repeats=Repeats(), attempt=1)
    manifest = Manifest(
        campaign_uuid=campaign.uuid,
        generation=1,
        round=1,
        config_sha256=campaign.config_sha256,
        stage=config.stage,
        jail=config.jail,
        data_dir=str(campaign.paths.data),
        target_parameters=1_000_000,
        reference_step_s=None,
        packs=packs,
        classes={candidate.id: candidate.class_name for candidate in candidates},
        versions=campaign.versions,
        stage_in=True,
        warn_s=120,
    )
    write_manifest(path, manifest)
    return packs


def _submit(launcher: ClusterLauncher, campaign: Campaign, packs: list[Pack], folder: Path) -> Submission:
    units = tuple(WorkUnit(name=pack.unit, index=index) for index, pack in enumerate(packs))
    return launcher.submit(replace(order_of(campaign, 1, 1, units), folder=folder, comment=f"asx-{folder}"))


def _task(manifest: str, index: int) -> None:
    """What map_array pickles; never run here."""


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))

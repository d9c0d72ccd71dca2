"""Rows: a wall time that is shorter than the training, and a task that does not hear that its time is over."""

from __future__ import annotations

import math
import signal
import time

from tests.slurm_cluster.faults.bench import Bench, Facts, Trial
from tests.slurm_cluster.faults.processes import kill, trainings
from tests.slurm_cluster.faults.undisturbed import reference_step_s

LIMIT_MIN = 4  # Slurm may warn a minute early, which would be half of a shorter one
LONG = 1.4  # length of the training in limits, on an idle core
STARTS_WITHOUT_PROGRESS = 3


def wall_time(bench: Bench) -> Facts:
    """One training of the reference, some minutes long, in elements of four minutes."""
    one_seed = ("campaign.reference_seeds=1", "campaign.seeds_per_candidate=1")
    steps = int(LONG * 60 * LIMIT_MIN / reference_step_s())
    trial = Trial(
        bench,
        *one_seed,
        f"stage.steps={steps}",
        f"slurm.timeout_min={LIMIT_MIN}",
        "slurm.requeue=true",
        is_prepared=False,
    )
    with trial.running() as watch:
        bench.wait_for(
            lambda: trial.is_over or (bool(trial.records()) and bool(trial.contents().evaluations)),
            "the training was not recorded",
            limit_s=1800,
        )
    trial.check_clean()
    assert not watch.doubled, f"trained twice: {watch.doubled}"
    (training,) = trial.contents().evaluations
    assert training.ending == "finished", f"{training.ending}: {training.cause}"
    rows = bench.ask("sacct", "-n", "-P", "-X", "-D", "-S", "now-1day", "-o", "JobID,State").splitlines()
    attempts = len([row for row in rows if "_" in row.partition("|")[0]])
    most = math.ceil(training.wall_s / (60 * LIMIT_MIN)) + 1
    assert attempts > 1, f"the training took {training.wall_s:.0f} s, too short for this row"
    assert attempts <= most, f"{attempts} attempts for {training.wall_s:.0f} s of training, at most {most}: {rows}"
    return {"training s": training.wall_s, "limit s": 60 * LIMIT_MIN, "attempts": attempts, "at most": most}


def poison(bench: Bench) -> Facts:
    """The child of one task stands still at every start: it neither saves nor ends when its time is over."""
    trial = Trial(bench, "slurm.timeout_min=1", "slurm.warn_s=15", "slurm.requeue=true", is_prepared=True)
    stopped: set[int] = set()
    victim = ""
    with trial.running() as watch:
        begun = time.monotonic()
        while not trial.is_over:
            assert time.monotonic() - begun < 1200, f"not over after 20 minutes, {len(stopped)} starts of {victim}"
            for pid, start in trainings(trial.folder).items():
                task = start.parent.name
                victim = victim or task
                if task == victim and pid not in stopped and kill(pid, signal.SIGSTOP):
                    stopped.add(pid)
            time.sleep(0.1)
        trial.finish()
    trial.check_clean()
    assert not watch.doubled, f"trained twice: {watch.doubled}"
    same = trial.check_measurements(without=victim)
    (lost,) = [one for one in trial.contents().evaluations if one.task.key == victim]
    assert lost.ending == "poison", f"{victim} ended as {lost.ending}: {lost.cause}"
    assert len(stopped) == STARTS_WITHOUT_PROGRESS, f"{len(stopped)} starts, {STARTS_WITHOUT_PROGRESS} were expected"
    return {"starts": len(stopped), "other trainings": same, "arrays": trial.check_arrays()}

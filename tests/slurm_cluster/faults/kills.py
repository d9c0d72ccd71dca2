"""Rows: tasks and drivers killed with SIGKILL, at random moments and at every step of a submission; two drivers."""

from __future__ import annotations

import time
from pathlib import Path

from tests.slurm_cluster.faults.bench import KILL_DRIVER, Bench, Facts, Trial
from tests.slurm_cluster.faults.processes import batch_script, descendants, kill, supervisors
from tests.slurm_cluster.faults.undisturbed import HOOKS

RESTART_LIMIT_S = 10.0
# elements wait in the queue, so that only the submission is looked at
PENDING = "slurm.extra_sbatch.begin=now+1hour"
# a program whose child dies more often under one supervisor is called crashed
CHILD_KILLS = 3
# of a submission, at the very least
MANY_STEPS = 9
# so long an sbatch may still hang after its driver has died
LATE_SBATCH_S = 5.0


def kill_tasks(bench: Bench) -> Facts:
    """SIGKILL of batch script, supervisor, guard or training child of a random element."""
    wanted, kills = bench.often(100, 6), 0
    total: dict[str, int | float | str] = {}
    while kills < wanted:
        trial = Trial(bench, is_prepared=True)
        with trial.running() as watch:
            kills += _kill_tasks_of(trial, wanted - kills)
            trial.finish()
        total = _add(total, trial.check_all(watch))
    assert bench.is_short or total["resumed"], "no training went on from a checkpoint"
    return {"kills": kills, **total}


def _kill_tasks_of(trial: Trial, wanted: int) -> int:
    """Kills until the campaign is over; less often while nothing is finished between them."""
    rng, kills, window_s = trial.bench.rng, 0, 6.0
    finished, fruitless = 0, 0
    under: dict[int, int] = {}  # children killed under each supervisor
    while not trial.is_over and kills < wanted:
        time.sleep(rng.uniform(0.3, window_s))
        alive = supervisors(trial.folder)
        if not alive:
            continue
        one = rng.choice(alive)
        below = descendants(one.pid)
        is_child = bool(below) and rng.random() < 0.5 and under.get(one.pid, 0) < CHILD_KILLS
        if not kill(rng.choice(below) if is_child else rng.choice([one.pid, batch_script(one.pid) or one.pid])):
            continue
        under[one.pid] = under.get(one.pid, 0) + is_child
        kills += 1
        fruitless = fruitless + 1 if len(trial.records()) <= finished else 0
        finished = max(finished, len(trial.records()))
        window_s = min(window_s * 1.5, 40.0) if fruitless and fruitless % 8 == 0 else window_s
    return kills


def kill_drivers(bench: Bench) -> Facts:
    """SIGKILL of the driver at random moments of whole campaigns, from their first instant."""
    wanted, kills, slowest_s = bench.often(100, 5), 0, 0.0
    total: dict[str, int | float | str] = {}
    while kills < wanted:
        trial = Trial(bench, is_prepared=bench.is_short)
        with trial.running() as watch:
            while kills < wanted and not trial.is_over:
                slowest_s = max(slowest_s, _until_it_goes_on(trial))
                time.sleep(bench.rng.uniform(0.0, 6.0) ** 2 / 6.0)
                if not trial.is_over:
                    trial.kill()
                    kills += 1
                    trial.check_clean()
                    trial.start()
            trial.finish()
        total = _add(total, trial.check_all(watch))
    _require_quick(slowest_s)
    return {"kills": kills, "slowest restart s": slowest_s, **total}


def _require_quick(slowest_s: float) -> None:
    assert slowest_s <= RESTART_LIMIT_S, f"a restart took {slowest_s:.1f} s, at most {RESTART_LIMIT_S:g} are allowed"


def _until_it_goes_on(trial: Trial) -> float:
    """Seconds from the start of the driver until it holds the campaign and works."""
    return trial.bench.wait_for(lambda: trial.is_over or trial.has_begun(), "the driver did not begin")


def kill_drivers_submitting(bench: Bench) -> Facts:
    """SIGKILL before each step of a submission in turn, and while sbatch runs; then a new driver goes on."""
    step, stride, restarts_s = 1, bench.often(1, 9), list[float]()
    while (seconds := _killed_before(bench, step)) is not None:
        restarts_s.append(seconds)
        step += stride
    assert step > MANY_STEPS, f"only {step} steps were seen"
    restarts_s += [_killed_in_sbatch(bench, order=order) for order in ("before", "after")]
    _require_quick(max(restarts_s))
    return {"steps": step - 1, "kills": len(restarts_s), "slowest restart s": max(restarts_s), "doubled": 0, "lost": 0}


def _killed_before(bench: Bench, step: int) -> float | None:
    """Seconds that the next driver needed; None where the submission has fewer steps."""
    trial = Trial(bench, PENDING, is_prepared=True)
    listing = trial.cwd / "steps.txt"
    path = f"{HOOKS}:{bench.cluster.environment['PYTHONPATH']}"
    with trial.running(env={"PYTHONPATH": path, "STEPS": str(listing), "KILL_AT_STEP": str(step)}):
        bench.wait_for(lambda: trial.is_over or _reached_its_end(listing), "the driver neither died nor waits")
        if trial.is_over:
            return _restart_and_count(trial)
    _cancel_all(bench)
    return None


def _reached_its_end(listing: Path) -> bool:
    return listing.exists() and listing.read_text().endswith("end\n")


def _killed_in_sbatch(bench: Bench, *, order: str) -> float:
    """The driver dies while sbatch runs: some seconds before slurmctld takes the array, or just after."""
    trial = Trial(bench, PENDING, is_prepared=True)
    once = f'if ! mkdir "{trial.cwd}/once" 2>&-; then exec "$real" "$@"; fi'
    text = {
        "before": f'{once}\n{KILL_DRIVER}sleep {LATE_SBATCH_S:g}; exec "$real" "$@"',
        "after": f'{once}\n"$real" "$@"\n{KILL_DRIVER}',
    }[order]
    with trial.running(env=bench.cluster.wrapper("sbatch", text)):
        bench.wait_for(lambda: trial.is_over, "the driver did not die in sbatch")
        seconds = _restart_and_count(trial, is_late=order == "before")
        _cancel_all(bench)
    return seconds


def _restart_and_count(trial: Trial, *, is_late: bool = False) -> float:
    """Start a driver where one died; seconds until it went on. Its arrays are there once."""
    trial.check_clean()
    trial.start()
    seconds = _until_it_goes_on(trial)
    _until_submitted(trial)
    time.sleep(LATE_SBATCH_S if is_late else 0.0)
    _one_array_each(trial)
    _cancel_all(trial.bench)
    return seconds


def _until_submitted(trial: Trial) -> None:
    trial.bench.wait_for(lambda: trial.is_submitted(1), f"nothing was submitted: {trial.said()[-800:]}")


def _one_array_each(trial: Trial) -> None:
    """Six elements in the queue and one array for each name; then they are cancelled."""
    bench = trial.bench
    bench.wait_for(lambda: len(bench.queued()) >= 6, "the elements did not come into the queue", limit_s=20)
    arrays = bench.arrays_by_name()
    assert all(len(ids) == 1 for ids in arrays.values()), f"arrays submitted twice: {arrays}"
    assert len(bench.queued()) == 6, f"{len(bench.queued())} elements in the queue, 6 were to be submitted"


def two_drivers(bench: Bench) -> Facts:
    """Two drivers of one campaign begin at once; one of them is killed and another comes."""
    races = bench.often(50, 4)
    refused = sum(_race(bench) for _ in range(races))
    return {"races": races, "refused": refused, "doubled": 0}


def _race(bench: Bench) -> bool:
    """Whether a driver was refused."""
    trial = Trial(bench, PENDING, is_prepared=True)
    first = trial.start()
    time.sleep(bench.rng.uniform(0.0, 0.6))
    try:
        with trial.running():
            bench.wait_for(trial.has_begun, "neither driver began")
            time.sleep(bench.rng.uniform(0.0, 2.0))
            trial.kill()
            trial.start()
            bench.wait_for(lambda: trial.is_submitted(1), f"nobody submitted: {trial.said()[-800:]}")
            _one_array_each(trial)
    finally:
        kill(first.pid)
        first.wait()
    _cancel_all(bench)
    return "another driver" in trial.said()


def _cancel_all(bench: Bench) -> None:
    bench.cluster.run_as_user(["scancel", "--user", bench.cluster.owner.name])
    bench.wait_for(lambda: not bench.queued(), "the arrays did not end")


def _add(total: Facts, more: Facts) -> dict[str, int | float | str]:
    """Sums of what was counted in several campaigns; `arrays` is counted over all of them already."""
    summed = {key: total.get(key, 0) + value for key, value in more.items() if isinstance(value, int)}  # type: ignore[operator]
    return {**summed, "arrays": more["arrays"]}

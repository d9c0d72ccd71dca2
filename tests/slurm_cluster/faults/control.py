"""Rows: Slurm's daemons and clients that are silent, late or lie, cancelled elements, small limits, ids used again."""

from __future__ import annotations

import signal
import time

from tests.slurm_cluster.faults.bench import KILL_DRIVER, POLL_S, Batch, Bench, Facts, Trial, answer_of
from tests.slurm_cluster.faults.processes import supervisors

OUTAGE_S = 180
REQUEUED_S = 240.0  # what slurmctld starts once more after the last result waits two minutes, and then ends at once
# calls beside the regular ones: a look back after a kill, limits, one answer that was asked for twice
SPARE_CALLS = 6


def controller_stopped(bench: Bench) -> Facts:
    """slurmctld is gone for three minutes, while elements run and a new driver is started."""
    trial = Trial(bench, is_prepared=True)
    environment, counts = bench.counting("squeue", "sacct", "sbatch", "scontrol")
    outage_s = bench.often(OUTAGE_S, 15)
    with trial.running(env=environment) as watch:
        bench.wait_for(lambda: len(supervisors(trial.folder)) == 2, "no two elements run", limit_s=180)
        bench.cluster.stop_daemon("slurmctld")
        before = counts()
        time.sleep(outage_s / 3)
        trial.kill()
        trial.start(env=environment)
        time.sleep(outage_s * 2 / 3)
        assert not trial.is_over, f"the driver did not wait for slurmctld: {trial.said()[-800:]}"
        calls = {name: count - before[name] for name, count in counts().items()}
        bench.cluster.start_controller()
        trial.finish()
    most = int(outage_s / POLL_S) + SPARE_CALLS
    assert all(count <= most for count in calls.values()), f"calls in {outage_s} s of silence: {calls}, at most {most}"
    rounds = len(list(trial.folder.glob("gen-0001/manifest-*.json")))
    assert rounds == 1, f"{rounds} rounds, one was enough: {trial.said()[-1500:]}"
    return {"silent s": outage_s, **{f"{name} calls": count for name, count in calls.items()}, **trial.check_all(watch)}


def controller_killed(bench: Bench) -> Facts:
    """SIGKILL of slurmctld, which then knows only what it had saved, at random moments while elements run."""
    trial = Trial(bench, is_prepared=True)
    kills = 0
    with trial.running() as watch:
        while kills < bench.often(8, 2) and not trial.is_over:
            time.sleep(bench.rng.uniform(0.0, 10.0))
            bench.cluster.stop_daemon("slurmctld", sign=signal.SIGKILL)
            kills += 1
            time.sleep(bench.rng.uniform(0.0, 5.0))
            bench.cluster.start_controller()
        trial.finish()
    # what slurmctld had not saved is lost: a training of it goes on in another round, from its checkpoint
    rounds = len(list(trial.folder.glob("gen-0001/manifest-*.json")))
    return {"kills": kills, "rounds": rounds, **trial.check_all(watch, leaving_s=REQUEUED_S)}


def accounting_stopped(bench: Bench) -> Facts:
    """slurmdbd is gone, an element is cancelled meanwhile, and a new driver is started."""
    trial = Trial(bench, is_prepared=True)
    environment, counts = bench.counting("squeue", "sacct")
    bench.cluster.stop_daemon("slurmdbd", sign=signal.SIGKILL)
    begun = time.monotonic()
    with trial.running(env=environment) as watch:
        _cancel_one_and_restart(trial, environment)
        trial.finish()
    most = int((time.monotonic() - begun) / POLL_S) + SPARE_CALLS
    calls = counts()
    assert all(count <= most for count in calls.values()), f"{calls}, at most {most} are allowed"
    bench.cluster.start_accounting()
    bench.wait_for(lambda: len(bench.arrays_by_name()) >= 2, "the accounting did not come back", limit_s=90)
    return {**{f"{name} calls": count for name, count in calls.items()}, **trial.check_all(watch)}


def accounting_absent(bench: Bench) -> Facts:
    """A site without slurmdbd: sacct fails at every call."""
    trial = Trial(bench, is_prepared=True)
    with trial.running() as watch:
        _cancel_one_and_restart(trial, {})
        trial.finish()
    return trial.check_all(watch)


def _cancel_one_and_restart(trial: Trial, environment: dict[str, str]) -> None:
    """scancel of one running element by hand; then the driver is killed and another one goes on."""
    bench = trial.bench
    bench.wait_for(lambda: bool(supervisors(trial.folder)), "no element runs", limit_s=180)
    bench.ask("scancel", bench.rng.choice(bench.running()))
    time.sleep(2)
    trial.kill()
    trial.start(env=environment)


def accounting_late(bench: Bench) -> Facts:
    """sacct knows nothing yet when it is asked."""
    return _odd_accounting(bench, "exit 0")


def accounting_garbled(bench: Bench) -> Facts:
    """sacct prints a page, half a line, zero bytes, or too much."""
    kinds = (
        "echo '<html><body>503 Service Unavailable</body></html>'",
        '"$real" "$@" | head -c 9',
        r"printf '1_0|COMPLETED\0|\xff\xfe|x\n||||\n'",
        r"yes '7_7|FAILED|elsewhere' | head -n 20000",
    )
    facts: Facts = {}
    for kind in kinds[: bench.often(len(kinds), 2)]:
        facts = _odd_accounting(bench, kind)
    return {"kinds": bench.often(len(kinds), 2), **facts}


def _odd_accounting(bench: Bench, text: str) -> Facts:
    """A driver dies in sbatch, another goes on, one element is cancelled: all with this sacct."""
    odd = _first_on_path(bench.cluster.wrapper("sacct", text))
    batch = _killed_in_sbatch(bench, odd)
    with batch.start("run", env={"PATH": f"{odd}:{bench.cluster.environment['PATH']}"}) as driver:
        bench.wait_for(lambda: bool(bench.running()), "no element runs")
        victim = bench.running()[0]
        bench.ask("scancel", victim)
        answer = answer_of(driver, limit_s=120)
    _check_verdicts(batch, answer, lost=[f"u{int(victim.rpartition('_')[2]):03d}"])
    _not_submitted_twice(bench, odd)
    return {"units": 6, "wrong verdicts": 0, "doubled": 0}


def _not_submitted_twice(bench: Bench, odd: str) -> None:
    """squeue has forgotten an array without receipt, and nothing sensible comes from sacct: then nobody knows."""
    batch = _killed_in_sbatch(bench, odd)
    bench.wait_for(lambda: len(batch.done()) == 6, "the units were not done", limit_s=120)
    forgetful = _first_on_path(bench.cluster.wrapper("squeue", "exit 0"))
    with batch.start("run", env={"PATH": f"{odd}:{forgetful}:{bench.cluster.environment['PATH']}"}):
        time.sleep(8)
    arrays = bench.arrays_by_name()
    doubled = {name: sorted(ids) for name, ids in arrays.items() if len(ids) > 1}
    assert not doubled, f"submitted again although nobody knew whether they were: {doubled}"
    batch("run", limit_s=120)


def _first_on_path(environment: dict[str, str]) -> str:
    return environment["PATH"].partition(":")[0]


def _killed_in_sbatch(bench: Bench, odd: str) -> Batch:
    """Six units whose driver died after slurmctld took them, before it heard their job id."""
    batch = Batch(bench, f"odd-{time.monotonic_ns()}", "--count", "6", "--sleep-s", "3", "--max-parallel", "2")
    once = f'if ! mkdir "{batch.folder}/once" 2>&-; then exec "$real" "$@"; fi'
    fatal = bench.cluster.wrapper("sbatch", f'{once}\n"$real" "$@"\n{KILL_DRIVER}')["PATH"]
    killed = bench.cluster.run_as_user(batch.command("run"), env={"PATH": f"{odd}:{fatal}"})
    assert killed.returncode == -signal.SIGKILL, f"not killed in sbatch: {killed.returncode} {killed.stderr[-500:]}"
    return batch


def _check_verdicts(batch: Batch, answer: dict[str, dict[str, list[str]]], *, lost: list[str]) -> None:
    """The lost units ended, the others are done and were never thought to have ended; none began twice."""
    last = {unit: states[-1] for unit, states in answer["seen"].items()}
    assert sorted(unit for unit, state in last.items() if state == "ended") == lost, f"{last}, lost were {lost}"
    wrong = [unit for unit, states in answer["seen"].items() if "ended" in states and unit not in lost]
    assert not wrong, f"thought to have ended: {wrong}"
    starts = batch.starts()
    assert len(starts) == len(set(starts)), f"began twice: {sorted({one for one in starts if starts.count(one) > 1})}"


def cancelled_element(bench: Bench) -> Facts:
    """scancel of one running element by hand, where elements are run again and where they are not."""
    for attempts in (3, 1):
        _cancelled(bench, attempts=attempts, whole=False)
    return {"campaigns": 2}


def cancelled_array(bench: Bench) -> Facts:
    """scancel of the whole array by hand, where elements are run again and where they are not."""
    for attempts in (3, 1):
        _cancelled(bench, attempts=attempts, whole=True)
    return {"campaigns": 2}


def _cancelled(bench: Bench, *, attempts: int, whole: bool) -> None:
    """The campaign names the cause and ends as configured: everything measured, or what was cancelled given up."""
    trial = Trial(bench, is_prepared=True, attempts=attempts)
    with trial.running() as watch:
        bench.wait_for(lambda: bool(supervisors(trial.folder)), "no element runs", limit_s=180)
        job, _, index = bench.rng.choice(bench.running()).partition("_")
        bench.ask("scancel", job if whole else f"{job}_{index}")
        trial.finish()
    trial.check_clean()
    assert not watch.doubled, f"trained twice: {watch.doubled}"
    assert "CANCELLED" in trial.said(), f"the driver does not name the cause: {trial.said()[-800:]}"
    endings = [one.ending for one in trial.contents().evaluations]
    if attempts > 1:
        trial.check_measurements()
        assert endings.count("finished") == len(endings), endings
    else:
        lost = endings.count("crashed")
        assert lost == 1 or (whole and lost > 1), f"{lost} elements were given up: {endings}"
        assert lost + endings.count("finished") == len(endings), endings
    trial.check_arrays()


def out_of_memory(bench: Bench) -> Facts:
    """slurm.memory_gb is too small for any training; the cause is named, and elements are run again as configured."""
    rounds = []
    for attempts in (2, 1):
        trial = Trial(bench, "slurm.memory_gb=0.12", is_prepared=True, attempts=attempts)
        with trial.running():
            trial.finish()
        trial.check_clean()
        trial.check_arrays()
        rounds.append(len(list(trial.folder.glob("gen-0001/manifest-*.json"))))
        lost = [one for one in trial.contents().evaluations if one.task.key not in _before(trial)]
        assert not [one for one in lost if one.ending == "finished"], "a training fitted into the memory"
        unnamed = [f"{one.ending}: {one.cause}" for one in lost if "memory" not in one.cause]
        assert "slurm.memory_gb" in trial.said() or not unnamed, f"{unnamed[:2]}; {trial.said()[-500:]}"
    assert rounds[0] <= 2, f"{rounds[0]} rounds with 2 attempts"
    assert rounds[1] == 1, f"{rounds[1]} rounds with 1 attempt"
    return {"rounds with 2 attempts": rounds[0], "with 1": rounds[1]}


def _before(trial: Trial) -> set[str]:
    """Keys of the trainings of generation 0."""
    return {one.task.key for one in trial.contents().evaluations if one.unit.startswith("g0000-")}


def ids_again(bench: Bench) -> Facts:
    """slurmctld loses its state while elements run, and gives their ids to arrays of somebody else."""
    trial = Trial(bench, is_prepared=True)
    with trial.running() as watch:
        bench.wait_for(lambda: len(supervisors(trial.folder)) == 2, "no two elements run", limit_s=180)
        ours = {one.partition("_")[0] for one in bench.running()}
        bench.cluster.stop_daemon("slurmctld", sign=signal.SIGKILL)
        bench.cluster.start_controller(forgetful=True)
        bench.cluster.wait_for_nodes()
        foreign = set()
        for _ in range(len(ours) + 1):
            foreign.add(bench.ask("sbatch", "--parsable", "--array=0-5%2", "--mem=10", "--wrap=sleep 4").strip())
        reused = len(ours & foreign)
        assert reused, f"no id was used again: ours {ours}, foreign {foreign}"
        trial.finish()
    facts = trial.check_all(watch)
    jobs = {one.fencing_token.split("/")[3] for one in trial.contents().evaluations if one.task.key}
    return {"ids used again": reused, "jobs": len(jobs), **facts}


def small_limits(bench: Bench) -> Facts:
    """MaxArraySize=10 and MaxSubmitJobs=20: a thousand units."""
    count = bench.often(1000, 60)
    batch = Batch(bench, "limits", "--count", str(count), "--sleep-s", "0.1", "--max-parallel", "0", "--poll-s", "0.5")
    begun, most = time.monotonic(), 0
    with batch.start("run", "--limit-s", "1500") as driver:
        while driver.poll() is None:
            most = max(most, len(bench.queued()))
            assert time.monotonic() - begun < 1500, f"{len(batch.done())} of {count} units after 1500 s"
            time.sleep(0.5)
        answer = answer_of(driver, limit_s=10)
    seconds = time.monotonic() - begun
    _check_verdicts(batch, answer, lost=[])
    assert len(batch.done()) == count, f"{len(batch.done())} of {count} units were done"
    arrays = bench.arrays_by_name()
    doubled = {name: sorted(ids) for name, ids in arrays.items() if len(ids) > 1}
    assert not doubled, f"arrays submitted twice: {doubled}"
    return {"units": count, "arrays": len(arrays), "most in the queue": most, "units per s": count / seconds}

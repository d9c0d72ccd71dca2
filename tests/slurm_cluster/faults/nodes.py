"""Rows: a node that is lost, a partition that preempts."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from tests.slurm_cluster.faults.bench import Bench, Facts, Trial
from tests.slurm_cluster.faults.processes import descendants, kill, processes, supervisors

PREEMPTING_S = 12
HELD_BY_ANOTHER = 3


def node_down_requeued(bench: Bench) -> Facts:
    """slurmd killed and the node down, then up, where Slurm requeues what ran there."""
    trial = Trial(bench, "slurm.requeue=true", is_prepared=True)
    with trial.running() as watch:
        losses = _lose_nodes(trial, bench.often(3, 2))
        trial.finish()
    facts = trial.check_all(watch)
    assert "NODE_FAIL" in _endings(bench), "Slurm lost no element with a node"
    return {**losses, **facts}


def node_down_not_requeued(bench: Bench) -> Facts:
    """The same where Slurm does not requeue; then a worker of the first attempt comes late."""
    trial = Trial(bench, "slurm.requeue=false", is_prepared=True)
    with trial.running() as watch:
        losses = _lose_nodes(trial, bench.often(3, 2))
        late = _write_late(trial)
        trial.finish()
    facts = trial.check_all(watch)
    assert "NODE_FAIL" in _endings(bench), "Slurm lost no element with a node"
    tokens = {one.unit: one.fencing_token.split("/") for one in trial.contents().evaluations}
    assert int(tokens[late][2]) > 1, f"{late}: what attempt 1 wrote late was taken: {tokens[late]}"
    return {**losses, "late workers ignored": 1, **facts}


def _lose_nodes(trial: Trial, times: int) -> dict[str, int]:
    """Lose the node of a running element; every second time its processes live on, as on a node without network."""
    bench = trial.bench
    lost = alive = 0
    while lost < times and not trial.is_over:
        element = _one_that_trains(trial)
        if element is None:
            break
        node = bench.ask("squeue", "-h", "-r", "-j", element, "-o", "%N").strip()
        if not node:
            continue
        bench.cluster.stop_daemon(node, sign=signal.SIGKILL)
        bench.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=fault")
        lost += 1
        if lost % 2:
            _kill_everything_on(bench, node)
        else:
            alive += 1
        time.sleep(bench.rng.uniform(2, 8))
        bench.cluster.start_node(node)
        _resume(bench, node)
    assert lost, "no node was lost before the campaign was over"
    return {"nodes lost": lost, "with living processes": alive}


def _resume(bench: Bench, node: str) -> None:
    done = bench.cluster.run_as_user(("scontrol", "update", f"nodename={node}", "state=resume"))
    # it may have come back by itself when its slurmd registered
    assert done.returncode == 0 or "Invalid node state" in done.stderr, done.stderr


def _one_that_trains(trial: Trial) -> str | None:
    """<job>_<index> of a running element whose worker is at work; None when the campaign is over first."""
    bench = trial.bench
    bench.wait_for(
        lambda: trial.is_over or bool(supervisors(trial.folder) and bench.running()), "nothing runs", limit_s=180
    )
    running = bench.running()
    return bench.rng.choice(running) if running else None


def _kill_everything_on(bench: Bench, node: str) -> None:
    """SIGKILL for all processes of the elements of a node, as when it loses its power."""
    mark = f"SLURMD_NODENAME={node}\0".encode()
    for one in processes():
        with suppress(OSError):
            environment = _environment_of(one.pid)
            if mark in environment and os.fsencode(str(bench.cluster.folder)) in environment:
                for pid in [one.pid, *descendants(one.pid)]:
                    kill(pid)


def _environment_of(pid: int) -> bytes:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return file.read()


def _write_late(trial: Trial) -> str:
    """Let a worker of round 1 come when the shard of a later round is there; the unit. It may leave at once."""
    bench, generation = trial.bench, trial.folder / "gen-0001"

    found: list[Path] = []

    def is_there() -> bool:
        found.extend(sorted((generation / "shards").glob("*-a[2-9].h5")))
        return bool(found)

    bench.wait_for(lambda: is_there() or trial.is_over, "no element was run again", limit_s=300)
    assert found, f"the campaign was over before a late worker could come: {trial.said()[-800:]}"
    unit = found[0].stem.rpartition("-a")[0]
    index = int(unit.rpartition("-u")[2])
    worker = [bench.cluster.python, "-m", "arch_search.worker", str(generation / "manifest-001.json"), str(index)]
    done = bench.cluster.run_as_user(worker, timeout_s=120)
    assert done.returncode in (0, HELD_BY_ANOTHER), f"the late worker failed: {done.stderr[-500:]}"
    return unit


def _endings(bench: Bench) -> set[str]:
    """Every state that the accounting has for an attempt of an element."""
    return {
        line.split()[0] for line in bench.ask("sacct", "-n", "-P", "-X", "-D", "-S", "now-1day", "-o", "State").split()
    }


def preempt_requeued(bench: Bench) -> Facts:
    """PreemptMode=REQUEUE: the elements come back by themselves."""
    trial = Trial(bench, "slurm.partition=main", is_prepared=True)
    with trial.running() as watch:
        times = _preempt(trial, bench.often(3, 1))
        trial.finish()
    facts = trial.check_all(watch)
    assert _endings(bench) & {"PREEMPTED", "REQUEUED"}, f"nothing was preempted: {_endings(bench)}"
    rounds = len(list(trial.folder.glob("gen-0001/manifest-*.json")))
    assert rounds == 1, f"{rounds} rounds were submitted although Slurm requeues"
    return {"preemptions": times, **facts}


def preempt_cancelled(bench: Bench) -> Facts:
    """PreemptMode=CANCEL: the elements are submitted again."""
    trial = Trial(bench, "slurm.partition=main", is_prepared=True)
    with trial.running() as watch:
        times = _preempt(trial, bench.often(3, 1))
        while not (cut_short := _cut_short(trial)):
            times += _preempt(trial, 1)
        trial.finish()
    facts = trial.check_all(watch)
    assert "PREEMPTED" in _endings(bench), f"nothing was preempted: {_endings(bench)}"
    attempts = {one.unit: int(one.fencing_token.split("/")[2]) for one in trial.contents().evaluations}
    left = sorted(unit for unit in cut_short if attempts[unit] == 1)
    assert not left, f"what was cancelled was not submitted again: {left}"
    rounds = len(list(trial.folder.glob("gen-0001/manifest-*.json")))
    assert rounds > 1, "what was cancelled was not submitted again"
    return {"preemptions": times, "cut short": len(cut_short), "rounds": rounds, **facts}


def _cut_short(trial: Trial) -> set[str]:
    """Units of round 1 whose element Slurm cancelled before the result was there: some end in time by themselves."""
    generation = trial.folder / "gen-0001"
    listed = trial.bench.ask("sacct", "-n", "-P", "-X", "-S", "now-1day", "-o", "JobID,State").splitlines()
    preempted = [line.partition("|")[0].partition("_") for line in listed if line.endswith("|PREEMPTED")]
    first = min(int(array) for arrays in trial.bench.arrays_by_name().values() for array in arrays)
    units = {f"g0001-u{int(index):04d}" for job, _, index in preempted if job == str(first)}
    if (generation / "shards.zip").exists():  # closed: every result is there
        return set()
    return units - {path.stem.rpartition("-a")[0] for path in (generation / "shards").glob("*-a1.h5")}


def preempt_suspended(bench: Bench) -> Facts:
    """PreemptMode=SUSPEND: the elements are waited for."""
    trial = Trial(bench, "slurm.partition=main", is_prepared=True)
    with trial.running() as watch:
        times = _preempt(trial, bench.often(3, 1), state="SUSPENDED")
        trial.finish()
    facts = trial.check_all(watch)
    rounds = len(list(trial.folder.glob("gen-0001/manifest-*.json")))
    assert rounds == 1, f"{rounds} rounds were submitted although the elements were only suspended"
    return {"suspensions": times, **facts}


def _preempt(trial: Trial, times: int, *, state: str = "") -> int:
    """How often elements that trained had to leave or to wait for a job of the partition `high` on all nodes."""
    done = 0
    while done < times and _one_that_trains(trial) is not None:
        time.sleep(trial.bench.rng.uniform(0, 2))  # a training takes three seconds on an idle machine
        _fill_nodes(trial.bench, state)
        done += 1
    assert done, "the campaign was over before anything was preempted"
    return done


def _fill_nodes(bench: Bench, state: str) -> None:
    nodes = f"--nodes={bench.cluster.options.nodes}"
    job = bench.ask(
        *("sbatch", "--parsable", "-p", "high", "--exclusive", nodes, f"--wrap=sleep {PREEMPTING_S}")
    ).strip()

    def is_in(*states: str) -> bool:
        return bench.ask("squeue", "-h", "-j", job, "-o", "%T").strip() in states

    bench.wait_for(lambda: not is_in("PENDING"), "the higher partition got no nodes")
    if state:
        bench.wait_for(lambda: any(state in line for line in bench.queued()), f"no element is {state}", limit_s=8)
    bench.wait_for(lambda: is_in("", "COMPLETED"), "the higher job did not end")

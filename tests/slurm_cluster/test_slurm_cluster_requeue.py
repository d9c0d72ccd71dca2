"""Checkpoint and requeue on a real Slurm: the array script and the real worker, warned, ended and refused by Slurm.

All cases run side by side, each as an array of its own, because a requeued element waits for many seconds.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from arch_search.config import Data, Stage
from arch_search.paths import UnitPaths
from arch_search.training.data import prepare
from arch_search.worker.folder import Progress, TaskFolder, read_message
from cognition_db.records import Evaluation
from slurm.script import element_script
from tests.slurm_cluster.cluster import SlurmCluster
from tests.worker.conftest import STAGE, Bench, make_bench

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
RECALL_STEPS = 30
# only a request to stop, and the first save of a start, write checkpoints
LONG = replace(STAGE, steps=60, checkpoint_every_s=1e6, recall=replace(STAGE.recall, steps=RECALL_STEPS))
SLOWLY = "time.sleep(0.05)"
LIMIT_S = 400.0
WARN_S = 6.0
WARN = ["scancel", "--signal=USR1", "--batch"]


@dataclass(slots=True, kw_only=True)
class Case:
    """One array of one element; `nudges` are commands, each called once as soon as its condition holds."""

    cluster: SlurmCluster
    bench: Bench
    options: list[str]
    job: str = ""
    nudges: list[tuple[Callable[[], bool], list[str]]] = field(default_factory=list)
    step_at_nudge: int = 0
    first_end: tuple[str, str] | None = None  # state and exit code of the job before the one of the next round

    def submit(self) -> None:
        folder = self.bench.generation.root
        worker = [self.cluster.python, "-m", "arch_search.worker", str(self.bench.manifest_path)]
        (folder / "commands").write_text(
            f"exec {shlex.join([*worker, '0'])} >> {shlex.quote(str(folder))}/worker.log 2>&1\n"
        )
        requeue = "--no-requeue" not in self.options
        script = folder / "script.sh"
        script.write_text("#!/bin/bash\nset -u\n" + element_script(folder / "commands", requeue=requeue) + "\n")
        own_all(self.cluster, folder)
        options = ["--array=0-0", f"--output={folder}/%A.out", "--open-mode=append", *self.options]
        done = self.cluster.run_as_user(["sbatch", "--parsable", *options, str(script)])
        assert done.returncode == 0, done.stderr
        self.job = f"{done.stdout.strip()}_0"

    def nudge(self) -> None:
        if self.nudges and self.nudges[0][0]():
            progress = self.progress()
            self.step_at_nudge = 0 if progress is None else progress.step
            _, command = self.nudges.pop(0)
            done = self.cluster.run_as_user([*command, self.job])
            assert done.returncode == 0, done.stderr

    def submit_next_round(self) -> None:
        """As the driver does for a unit that has ended without a shard."""
        self.first_end = (self.state(), self.exit_code())
        pack = self.bench.manifest.packs[0]
        again = replace(pack, attempt=2, tasks=tuple(replace(task, attempt=2) for task in pack.tasks))
        self.bench = self.bench.rewritten(replace(self.bench.manifest, packs=(again,)))
        self.submit()

    def working(self, start: str) -> TaskFolder:
        return TaskFolder(self.unit.working(self.bench.manifest.packs[0].tasks[0].key, start))

    def progress(self, start: str = "a1-001") -> Progress | None:
        return read_message(self.working(start).progress, Progress)

    def has_reached(self, step: int) -> bool:
        progress = self.progress()
        return progress is not None and progress.phase == "language_model" and progress.step >= step

    @property
    def unit(self) -> UnitPaths:
        return self.bench.unit()

    def is_over(self) -> bool:
        return bool(self.state()) and not {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"} & set(
            self.state().split()
        )

    def state(self) -> str:
        done = self.cluster.run_as_user(["squeue", "-h", "-t", "all", "-j", self.job, "-o", "%T"])
        return done.stdout.strip()

    def exit_code(self) -> str:
        """As Slurm writes it: code:signal."""
        shown = self.cluster.run_as_user(["scontrol", "show", "job", self.job]).stdout
        return next(word.removeprefix("ExitCode=") for word in shown.split() if word.startswith("ExitCode="))

    def said(self) -> str:
        folder = self.bench.generation.root
        paths = [*folder.glob("*.out"), folder / "worker.log", self.unit.log]
        return "\n".join(f"{path.name}: {path.read_text()}" for path in paths if path.exists())

    def starts(self) -> int:
        return len(list(self.unit.root.glob("start-*")))

    def evaluation(self, attempt: int = 1) -> Evaluation:
        assert self.bench.generation.shard("g1-u0", attempt).exists(), f"{self.state()}\n{self.said()}"
        return self.bench.evaluations()[0]


def own_all(cluster: SlurmCluster, folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, cluster.owner.uid, cluster.owner.gid)


@pytest.fixture(scope="module")
def cases(slurm_cluster: SlurmCluster) -> Iterator[dict[str, Case]]:
    """Every case, submitted at once and looked after until its array has ended."""
    corpus = slurm_cluster.make_folder("corpus")
    prepare(Data(kind="stdlib", path=None, heldout_share=0.2, max_bytes=200_000), corpus)
    own_all(slurm_cluster, corpus)

    def case(name: str, body: str, *options: str, stage: Stage = LONG, warn_s: float = WARN_S) -> Case:
        made = make_bench(slurm_cluster.make_folder(f"requeue {name}") / "gen-0001", corpus, (body,), (0,))
        manifest = replace(made.manifest, stage=stage, warn_s=warn_s, stage_in=True)
        return Case(cluster=slurm_cluster, bench=made.rewritten(manifest), options=["--time=5", *options])

    found = {
        "undisturbed": case("undisturbed", "pass"),
        "warned": case("warned", SLOWLY),
        "ended": case("ended", SLOWLY + "  # by Slurm"),
        "refused": case("refused", SLOWLY, "--no-requeue"),
        "cancelled": case("cancelled", SLOWLY),
        "hangs": case("hangs", "open('here', 'w').close(); time.sleep(3600)", warn_s=1.5),
        "limited": case("limited", "time.sleep(0.7)", "--time=1", "--signal=B:USR1@10"),
    }
    for name, command in (
        ("warned", WARN),
        ("refused", WARN),
        ("ended", ["scontrol", "requeue"]),
        ("cancelled", ["scancel"]),
    ):
        found[name].nudges = [(lambda one=found[name]: one.has_reached(10), command)]
    hangs = found["hangs"]
    hangs.nudges = [
        (lambda start=f"a1-00{number}": (hangs.working(start).root / "here").exists(), WARN) for number in (1, 2, 3)
    ]
    for one in found.values():
        one.submit()
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until and not all(one.is_over() for one in found.values()):
        for one in found.values():
            one.nudge()
        if found["refused"].first_end is None and found["refused"].is_over():
            found["refused"].submit_next_round()
        time.sleep(0.3)
    yield found
    slurm_cluster.run_as_user(["scancel", "--user", slurm_cluster.owner.name])


def assert_equal_to_the_last_bit(found: Evaluation, expected: Evaluation) -> None:
    assert found.ending == "finished", found.cause
    assert found.curve_loss == expected.curve_loss
    for name in ("heldout_loss", "recall_accuracy"):
        assert found.score(name) == expected.score(name)


def restarts(evaluation: Evaluation) -> int:
    return int(evaluation.fencing_token.split("/")[-1])


def test_a_warned_element_comes_back_by_requeue_and_finishes_as_if_nothing_had_been(cases: dict[str, Case]) -> None:
    found = cases["warned"].evaluation()
    assert_equal_to_the_last_bit(found, cases["undisturbed"].evaluation())
    assert restarts(found) == 1
    assert found.resumed_from_step >= RECALL_STEPS + cases["warned"].step_at_nudge


def test_what_slurm_ends_with_sigterm_saves_first_although_the_signal_reaches_every_process(
    cases: dict[str, Case],
) -> None:
    found = cases["ended"].evaluation()
    assert_equal_to_the_last_bit(found, cases["undisturbed"].evaluation())
    assert found.resumed_from_step >= RECALL_STEPS + cases["ended"].step_at_nudge
    assert "signalled" not in cases["ended"].unit.log.read_text()


def test_a_cancelled_element_stays_cancelled(cases: dict[str, Case]) -> None:
    assert cases["cancelled"].state() == "CANCELLED"
    assert cases["cancelled"].starts() == 1


def test_a_task_that_ignores_every_warning_ends_as_poison(cases: dict[str, Case]) -> None:
    found = cases["hangs"].evaluation()
    assert found.ending == "poison"
    assert "3 starts without progress" in found.cause
    assert "did not stop when asked" in found.cause
    assert cases["hangs"].starts() == 4


def test_a_real_time_limit_shorter_than_the_training_is_survived(cases: dict[str, Case]) -> None:
    found = cases["limited"].evaluation()
    assert_equal_to_the_last_bit(found, cases["undisturbed"].evaluation())
    # a minute of work; Slurm warns up to a minute early, so that this limit leaves a start from 20 to 50 seconds
    assert 2 <= cases["limited"].starts() <= 8
    assert found.resumed_from_step > 0


def test_without_requeue_the_next_round_of_the_driver_goes_on_from_the_checkpoint(cases: dict[str, Case]) -> None:
    case = cases["refused"]
    assert case.first_end == ("FAILED", "4:0")
    found = case.evaluation(2)
    assert_equal_to_the_last_bit(found, cases["undisturbed"].evaluation())
    assert found.resumed_from_step >= RECALL_STEPS + case.step_at_nudge


def test_a_job_that_ends_by_itself_leaves_no_copy_of_the_corpus_on_the_node(
    cases: dict[str, Case], slurm_cluster: SlurmCluster
) -> None:
    # what Slurm kills may be killed before it has cleaned up
    by_itself = [case.job.removesuffix("_0") for name, case in cases.items() if name not in ("cancelled", "ended")]
    left = {path.name.split("-")[1] for path in (slurm_cluster.folder / "tmp").glob("asx-*")}
    assert not left & set(by_itself)
    assert not [name for name, case in cases.items() if "stage-in" in case.said()]

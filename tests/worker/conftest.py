"""One tiny generation on disk: programs, corpus and manifest, as the driver leaves them for a worker."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from arch_search.config import Data, Jail, Recall, Stage
from arch_search.paths import GenerationPaths, UnitPaths
from arch_search.training.data import prepare
from arch_search.worker import manifest as manifests
from arch_search.worker.folder import Progress, TaskFolder, read_message
from arch_search.worker.manifest import Manifest
from cognition_db.experience.files import write_atomic
from cognition_db.experience.shard import read_shard
from cognition_db.records import Evaluation, Pack, Task, candidate_id

STAGE = Stage(
    name="tiny",
    d_model=16,
    n_layers=1,
    n_heads=2,
    seq_len=24,
    batch_size=4,
    steps=8,
    lr=4e-3,
    warmup_steps=2,
    weight_decay=0.1,
    clip_norm=1.0,
    heldout_sequences=4,
    parameter_tolerance=0.05,
    device="cpu",
    precision="float32",
    micro_batch=0,
    checkpoint_every_s=0.2,
    task_limit_s=120,
    slow_factor=20,
    memory_gb=2,
    threads=1,
    recall=Recall(
        steps=4,
        batch_size=8,
        keys=3,
        writes=6,
        vocab=16,
        d_model=16,
        n_layers=1,
        n_heads=2,
        lr=4e-3,
        eval_sequences=32,
    ),
)

MIXER = """
import os
import time
import torch
from torch import nn


class DeltaNet(nn.Module):
    def __init__(self, hidden_size, **kwargs):
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        past = x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1)[:, None]
        # BODY
        return self.inner(past)
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """A generation whose packs hold one program each: a causal mixer with one line added to its forward pass."""

    generation: GenerationPaths
    manifest: Manifest

    @property
    def manifest_path(self) -> Path:
        return self.generation.manifest(1)

    def unit(self, index: int = 0) -> UnitPaths:
        return self.generation.unit(self.manifest.packs[index].unit)

    def command(self, index: int = 0) -> list[str]:
        return [sys.executable, "-m", "arch_search.worker", str(self.manifest_path), str(index)]

    def run(self, index: int = 0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(index), capture_output=True, text=True, timeout=120)

    def start_until_step(self, step: int, *, phase: str, index: int = 0) -> subprocess.Popen[str]:
        """A running worker whose child has reported at least `step` steps of `phase`."""
        return self.start_until(lambda: self._has_reached(step, phase, index), index=index)

    def start_until(self, is_there: Callable[[], bool], *, index: int = 0) -> subprocess.Popen[str]:
        """A running worker, once `is_there`; what is to be there must not be there before."""
        process = subprocess.Popen(self.command(index), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 60
        while not is_there():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "the child never got there"
            time.sleep(0.02)
        return process

    def _has_reached(self, step: int, phase: str, index: int) -> bool:
        progress = read_message(self.working(index).progress, Progress)
        return progress is not None and progress.phase == phase and progress.step >= step

    def working(self, index: int = 0) -> TaskFolder:
        """Where the newest start of the first task of the pack works."""
        unit, key = self.unit(index), self.manifest.packs[index].tasks[0].key
        starts = sorted(path.name.removeprefix("start-") for path in unit.root.glob("start-*"))
        return TaskFolder(unit.working(key, (starts or ["none"])[-1]))

    def evaluations(self, index: int = 0) -> tuple[Evaluation, ...]:
        pack = self.manifest.packs[index]
        return read_shard(self.generation.shard(pack.unit, pack.attempt))

    def evaluation(self, index: int = 0) -> Evaluation:
        """What a fresh worker records about the only task of this pack."""
        done = self.run(index)
        assert done.returncode == 0, done.stderr
        (found,) = self.evaluations(index)
        return found

    def with_stage(self, stage: Stage) -> Bench:
        return self.rewritten(replace(self.manifest, stage=stage))

    def with_program(self, text: str) -> Bench:
        """The first pack alone, its tasks with this program instead."""
        name, pack = candidate_id(text), self.manifest.packs[0]
        write_atomic(self.generation.program(name), text.encode())
        tasks = tuple(replace(task, candidate_id=name) for task in pack.tasks)
        return self.rewritten(replace(self.manifest, packs=(replace(pack, tasks=tasks),), classes={name: "DeltaNet"}))

    def rewritten(self, manifest: Manifest) -> Bench:
        manifests.write(self.manifest_path, manifest)
        return Bench(self.generation, manifest)


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    prepare(Data(kind="stdlib", path=None, heldout_share=0.2, max_bytes=200_000), out)
    return out


@pytest.fixture(scope="session")
def tiny_stage() -> Stage:
    return STAGE


@pytest.fixture(scope="session")
def finished_bench(tmp_path_factory: pytest.TempPathFactory, corpus_folder: Path) -> Bench:
    """A pack of one honest program and one seed, run once; to be read only."""
    made = make_bench(tmp_path_factory.mktemp("finished") / "gen-0001", corpus_folder, ("pass",), (0,))
    done = made.run()
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture
def bench(tmp_path: Path, corpus_folder: Path) -> Callable[..., Bench]:
    def make(*bodies: str, seeds: tuple[int, ...] = (0,)) -> Bench:
        return make_bench(tmp_path / "gen-0001", corpus_folder, bodies or ("pass",), seeds)

    return make


def make_bench(root: Path, corpus_folder: Path, bodies: tuple[str, ...], seeds: tuple[int, ...]) -> Bench:
    generation = GenerationPaths(root)
    packs, classes = [], {}
    for number, body in enumerate(bodies):
        text = MIXER.replace("# BODY", body)
        name = candidate_id(text)
        classes[name] = "DeltaNet"
        write_atomic(generation.program(name), text.encode())
        tasks = tuple(Task(candidate_id=name, stage="tiny", seed=seed, attempt=1) for seed in seeds)
        packs.append(Pack(unit=f"g1-u{number}", attempt=1, tasks=tasks))
    manifest = Manifest(
        campaign_uuid="0000-uuid",
        generation=1,
        round=1,
        config_sha256="c0ffee",
        stage=STAGE,
        jail=Jail(rung="auto"),
        data_dir=str(corpus_folder),
        target_parameters=6000,
        reference_step_s=None,
        packs=tuple(packs),
        classes=classes,
        versions={"python": "3"},
    )
    return Bench(generation, manifest).rewritten(manifest)

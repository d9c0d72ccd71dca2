"""The trusted half of an array element: runs the tasks of one pack, one after the other, and writes their shard.

Whatever ends a supervisor, the next one of the same unit goes on: finished evaluations are kept and the running task
continues from the checkpoint of its child. Torch-free.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from arch_search.errors import CampaignError
from arch_search.paths import GenerationPaths, UnitPaths
from arch_search.training.data import load_corpus
from arch_search.worker import manifest as manifests
from arch_search.worker.manifest import Manifest
from arch_search.worker.running import Unit, run_task
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.experience.shard import write_shard
from cognition_db.records import Evaluation, Pack, Task, from_json, to_json

SHARD_WRITTEN, HELD_BY_ANOTHER, COME_BACK = 0, 3, 4


class StopRequest:
    """True once one of the signals came; the handler does nothing else, so it is safe at any instruction."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        return self._asked

    def listen(self, signals: Sequence[signal.Signals]) -> None:
        for one in signals:
            signal.signal(one, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True


def run_pack(manifest_path: Path, index: int, *, stop: StopRequest | None = None) -> int:
    """Run what is left of pack `index`, then write its shard.

    Returns:
        0 the shard is written (a task that ended badly is a result too), 3 another supervisor works on this unit,
        4 stopped on request with a checkpoint: run it again.

    Raises:
        ArchSearchError, StoreError: a failure of ours; nothing that was finished is lost.
    """
    manifest = manifests.read(manifest_path)
    if not 0 <= index < len(manifest.packs):
        raise CampaignError(f"{manifest_path}: no pack {index}, it has {len(manifest.packs)}")
    pack = manifest.packs[index]
    generation = GenerationPaths(manifest_path.resolve().parent)
    paths = generation.unit(pack.unit)
    shard = generation.shard(pack.unit, pack.attempt)
    with _held(paths) as is_ours:
        if not is_ours:
            return HELD_BY_ANOTHER
        if shard.exists():
            return SHARD_WRITTEN
        unit = Unit(
            manifest=manifest,
            pack=pack,
            generation=generation,
            paths=paths,
            corpus=load_corpus(Path(manifest.data_dir)),
            fencing_token=_fencing_token(manifest, pack),
            should_stop=stop or StopRequest(),
        )
        evaluations = _evaluations(unit)
        if evaluations is None:
            return COME_BACK
        write_shard(shard, evaluations, generation=manifest.generation)
    return SHARD_WRITTEN


def _evaluations(unit: Unit) -> list[Evaluation] | None:
    """One evaluation for every task of the pack; None where a stop was asked for before all were there."""
    found = []
    for done, task in enumerate(unit.pack.tasks):
        path = unit.paths.evaluation(task.key)
        evaluation = _recorded(path, task, unit)
        if evaluation is None:
            evaluation = None if unit.should_stop() else run_task(unit, task, tasks_done=done)
            if evaluation is None:
                return None
            write_atomic(path, json.dumps(to_json(evaluation)).encode())
        # only now: the record is durable, the working files are of no more use
        shutil.rmtree(unit.paths.task(task.key), ignore_errors=True)
        found.append(evaluation)
    return found


def _recorded(path: Path, task: Task, unit: Unit) -> Evaluation | None:
    """The evaluation an earlier supervisor recorded, signed over to this attempt, which is to report it."""
    if not path.exists():
        return None
    try:
        evaluation = from_json(Evaluation, read_json(path))
    except (StoreError, ValidationError):
        return None
    return replace(evaluation, task=task, fencing_token=unit.fencing_token)


@contextmanager
def _held(paths: UnitPaths) -> Iterator[bool]:
    """Whether this process holds the lock of the unit; the kernel frees it however the process ends."""
    paths.root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield _is_locked(descriptor)
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fencing_token(manifest: Manifest, pack: Pack) -> str:
    job = os.environ.get("SLURM_JOB_ID") or f"pid{os.getpid()}"
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    return f"{manifest.campaign_uuid}/{pack.unit}/{pack.attempt}/{job}/{restarts}"

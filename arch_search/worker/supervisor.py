"""The trusted half of an array element: runs the tasks of one pack, one after the other, and writes their shard.

Whatever ends a supervisor, the next one of the same unit goes on: finished evaluations are kept and the running task
continues from the checkpoint of its child. Torch-free.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from arch_search.errors import CampaignError
from arch_search.paths import GenerationPaths, UnitPaths
from arch_search.training.data import load_corpus
from arch_search.worker import manifest as manifests
from arch_search.worker.claims import Start, claim, is_superseded, publish
from arch_search.worker.ledger import job_name
from arch_search.worker.manifest import Manifest
from arch_search.worker.running import Unit, note, run_task
from arch_search.worker.staging import staged
from arch_search.worker.stop import StopRequest
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.experience.seal import is_seal, read_secret, seal
from cognition_db.experience.shard import write_shard
from cognition_db.records import Evaluation, Pack, Task, canonical_json, from_json, to_json

SHARD_WRITTEN, HELD_BY_ANOTHER, COME_BACK = 0, 3, 4
_SEAL = "seal"


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
    generation = GenerationPaths(manifest_path.resolve().parent)
    pack = manifest.packs[index]
    if generation.packed_shards.exists():
        return SHARD_WRITTEN  # the generation is closed; its folders must not come back
    paths = generation.unit(pack.unit)
    with _held(paths) as is_ours:
        if not is_ours:
            return HELD_BY_ANOTHER
        if generation.shard(pack.unit, pack.attempt).exists():
            return SHARD_WRITTEN
        start = claim(paths, attempt=pack.attempt)
        return _run(manifest, pack, generation, start, stop or StopRequest())


def _run(manifest: Manifest, pack: Pack, generation: GenerationPaths, start: Start, stop: StopRequest) -> int:
    paths = generation.unit(pack.unit)
    if is_superseded(paths, start):
        return HELD_BY_ANOTHER
    whole = load_corpus(Path(manifest.data_dir))
    with staged(whole, wanted=manifest.stage_in, should_stop=stop, note=lambda text: note(paths, text)) as corpus:
        unit = Unit(
            manifest=manifest,
            pack=pack,
            generation=generation,
            paths=paths,
            corpus=corpus,
            start=start,
            secret=read_secret(generation.campaign.secret, sha256=manifest.secret_sha256),
            fencing_token=f"{manifest.campaign_uuid}/{pack.unit}/{pack.attempt}/{job_name()}",
            stop=stop,
        )
        evaluations = _evaluations(unit)
    if is_superseded(paths, start):
        return HELD_BY_ANOTHER
    if evaluations is None:
        return COME_BACK
    # under another name first: should an older start of this attempt be as far, the file of the first stays
    fresh = paths.root / f"{start.name}.h5"
    write_shard(fresh, evaluations, generation=manifest.generation, secret=unit.secret)
    publish(fresh, generation.shard(pack.unit, pack.attempt))
    return SHARD_WRITTEN


def _evaluations(unit: Unit) -> list[Evaluation] | None:
    """One evaluation for every task of the pack; None where it has to stop before all are there."""
    found = []
    for done, task in enumerate(unit.pack.tasks):
        evaluation = _recorded(task, unit)
        if evaluation is None:
            measured = None if unit.stop() else run_task(unit, task, tasks_done=done)
            if measured is None or is_superseded(unit.paths, unit.start):
                return None
            evaluation = _acknowledged(measured, unit)
        # only now: the record is durable, the working files are of no more use
        shutil.rmtree(unit.paths.task(task.key), ignore_errors=True)
        found.append(evaluation)
    return found


def _acknowledged(evaluation: Evaluation, unit: Unit) -> Evaluation:
    """The evaluation that now stands recorded: this one, or that of another start that was first."""
    task, path = evaluation.task, unit.paths.evaluation(evaluation.task.key)
    fresh = unit.paths.task(task.key) / f"{unit.start.name}.evaluation"
    while True:
        write_atomic(fresh, json.dumps(_sealed(evaluation, unit)).encode())
        if publish(fresh, path):
            return evaluation
        recorded = _recorded(task, unit)
        if recorded is not None:
            return recorded


def _recorded(task: Task, unit: Unit) -> Evaluation | None:
    """The evaluation an earlier supervisor recorded, signed over to this attempt, which is to report it.

    One that is damaged, of another training or without the seal of the campaign is removed.
    """
    path = unit.paths.evaluation(task.key)
    if not path.exists():
        return None
    try:
        evaluation = from_json(Evaluation, _unsealed(read_json(path), unit))
        if evaluation.task.key != task.key:
            raise StoreError(f"a record of {evaluation.task.key}")
    except (StoreError, ValidationError):
        note(unit.paths, f"{path.name} is damaged or no record of this campaign; {task.key} is trained again")
        path.unlink(missing_ok=True)
        return None
    return replace(evaluation, task=task, fencing_token=unit.fencing_token)


def _sealed(evaluation: Evaluation, unit: Unit) -> dict[str, Any]:
    """What is written of an evaluation that waits for its shard: one entry more, which readers of records pass over."""
    data: dict[str, Any] = to_json(evaluation)
    return data | ({_SEAL: seal(unit.secret, canonical_json(data))} if unit.secret else {})


def _unsealed(data: Any, unit: Unit) -> Any:
    """What `_sealed` made this of; StoreError where it bears no seal of the campaign."""
    if not unit.secret:
        return data
    if not isinstance(data, dict):
        raise StoreError("no record")
    found = str(data.pop(_SEAL, ""))
    if not is_seal(found, seal(unit.secret, canonical_json(data))):
        raise StoreError("no seal of this campaign")
    return data


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

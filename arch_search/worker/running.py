"""One task from its empty folder to its Evaluation: prepare, run the child in a jail, watch it, score it."""

from __future__ import annotations

import os
import platform
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from arch_search.errors import ArchSearchError, CampaignError
from arch_search.evaluation import heldout, recall
from arch_search.jail.python import jailed_python
from arch_search.jail.run import JailResult, Limits, run_jailed
from arch_search.paths import GenerationPaths, UnitPaths
from arch_search.training.data import Corpus, open_tokens
from arch_search.training.seeds import derive_seed
from arch_search.worker.claims import Start, is_superseded
from arch_search.worker.folder import (
    EXIT_OURS,
    EXIT_STOPPED,
    ChildResult,
    Order,
    Progress,
    TaskFolder,
    read_message,
    write_message,
    write_npy,
)
from arch_search.worker.handover import take_over
from arch_search.worker.heartbeat import Heartbeat, read_heartbeat, write_heartbeat
from arch_search.worker.ledger import FAIR_START_S, Ledger, stuck_cause
from arch_search.worker.manifest import Manifest
from arch_search.worker.memory_kills import memory_kills
from arch_search.worker.scoring import Questions, Scored, read_result, score
from arch_search.worker.stop import StopRequest
from arch_search.worker.watch import Early, Verge, judge
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import write_atomic
from cognition_db.records import Evaluation, Pack, Task, candidate_id, sha256_text

HEARTBEAT_EVERY_S = 1.0
# threads that libraries start beside the ones that compute
SPARE_PROCESSES = 64
MAX_CAUSE_CHARS = 300
JOB_MEMORY = "the kernel killed it at the memory limit of the job; raise slurm.memory_gb or lower stage.memory_gb"
MAX_LOG_CHARS = 4000
IGNORED_STOP = "did not stop when asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What stays the same over the tasks of one pack."""

    manifest: Manifest
    pack: Pack
    generation: GenerationPaths
    paths: UnitPaths
    corpus: Corpus
    start: Start
    secret: str  # of the campaign; empty: it has none
    fencing_token: str
    stop: StopRequest


@dataclass(slots=True, kw_only=True)
class _Watcher:
    """Called twice a second while the child runs: ledger, heartbeat, newer starts, stop request, early endings."""

    unit: Unit
    folder: TaskFolder
    ledger: Ledger
    start: Heartbeat
    verge: Verge
    begun: float
    early: Early | None = None
    _asked_at: float | None = None
    _beaten_at: float = 0.0

    def __call__(self) -> str | None:
        now = time.monotonic()
        progress = self.keep_progress()
        if now - self._beaten_at >= HEARTBEAT_EVERY_S:
            self._beaten_at = now
            if is_superseded(self.unit.paths, self.unit.start):
                return "a newer start of this unit took over"
            self._beat(progress, now)
            if now - self.begun >= FAIR_START_S:
                self.ledger.live()
        if self.unit.stop():
            return self._ask_to_stop(now)
        self.early = None if progress is None else judge(progress, self.verge)
        return None if self.early is None else self.early.cause

    def keep_progress(self) -> Progress | None:
        """What the child reports now; its last checkpoint goes into the ledger."""
        progress = read_message(self.folder.progress, Progress)
        if progress is not None:
            stage = self.unit.manifest.stage
            before, steps = (0, stage.recall.steps) if progress.phase == "recall" else (stage.recall.steps, stage.steps)
            self.ledger.reach(before + min(progress.saved_step, steps))
        return progress

    def _ask_to_stop(self, now: float) -> str | None:
        if self._asked_at is None:
            self._asked_at = now
            write_atomic(self.folder.stop, b"")
        grace_s = self.unit.stop.grace_s(self.unit.manifest.warn_s)
        return IGNORED_STOP if now - self._asked_at > grace_s else None

    def _beat(self, progress: Progress | None, now: float) -> None:
        beat = replace(self.start, wall_s=self.start.wall_s + now - self.begun, unix=time.time())
        if progress is not None:
            beat = replace(
                beat,
                phase=progress.phase,
                step=progress.step,
                steps=progress.steps,
                loss=progress.loss,
                cpu_s=self.start.cpu_s + progress.cpu_s,
            )
        write_heartbeat(self.unit.paths.heartbeat, beat)


def run_task(unit: Unit, task: Task, *, tasks_done: int) -> Evaluation | None:
    """Train and score one task; None where it was stopped on request, or where a newer start owns the unit.

    A child that somebody killed goes on from its checkpoint, as after a start of the whole unit: it says nothing of the
    program until its starts make no progress any more.

    Raises:
        CampaignError: a failure of ours, such as a full disk or a changed program file.
        JailError: no jail on this machine.
    """
    program = _program(unit, task)
    folder = take_over(unit.paths, task.key, unit.start)
    ledger = Ledger(unit.paths, task.key, unit.start)
    questions = _prepare(unit, task, folder, program)
    while True:
        beat = _start(unit, task, tasks_done)
        record = _blank_evaluation(unit, task, program, beat)
        limit_s = unit.manifest.stage.task_limit_s - beat.wall_s
        if limit_s <= 0:
            return _ended(record, _timed_out(unit, "counted over several starts"))
        cause = stuck_cause(ledger.launches)
        if cause is not None:
            return _ended(record, Scored(ending="poison", cause=cause))
        write_heartbeat(unit.paths.heartbeat, beat)
        watcher = _Watcher(
            unit=unit, folder=folder, ledger=ledger, start=beat, verge=_verge(unit), begun=time.monotonic()
        )
        killed_before = memory_kills()
        jailed = _launched(unit, task, limit_s, watcher)
        if jailed.is_killed_from_outside and memory_kills() > killed_before:
            jailed = replace(jailed, ended="out_of_memory", reason=JOB_MEMORY)
            break
        if _is_to_be_continued(unit, jailed, watcher):
            return None
        if not jailed.is_killed_from_outside:
            break
    record = replace(
        record,
        wall_s=beat.wall_s + jailed.wall_s,
        cpu_s=beat.cpu_s + jailed.cpu_s,
        peak_memory_mb=jailed.peak_memory_mb,
        jail=jailed.rung,
    )
    result = read_result(folder, unit.manifest.stage) if jailed.exit_code == 0 else None
    if result is None:
        return _ended(record, _unfinished(unit, jailed, watcher.early))
    return _ended(_with_result(record, result), score(result, folder, questions))


def note(paths: UnitPaths, text: str) -> None:
    """One line for people into the log of the unit."""
    with paths.log.open("a", encoding="utf-8", errors="replace") as log:
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def _launched(unit: Unit, task: Task, limit_s: float, watcher: _Watcher) -> JailResult:
    """One start of the child, in the ledger from before its begin; a failure of ours is taken out again."""
    watcher.ledger.begin()
    try:
        jailed = _run_child(unit, watcher.folder, limit_s, watcher)
        _log(unit, task, jailed)
        if jailed.exit_code == EXIT_OURS and not is_superseded(unit.paths, unit.start):
            said = _last_line(jailed)
            raise CampaignError(f"{task.key}: the worker failed beside the program: {said}; {unit.paths.log}")
    except (ArchSearchError, StoreError):
        with suppress(StoreError):
            watcher.ledger.discount()
        raise
    watcher.keep_progress()
    asked_to_stop = unit.stop() and jailed.reason != IGNORED_STOP
    outside = jailed.is_killed_from_outside or asked_to_stop
    watcher.ledger.end(jailed.reason or f"exit code {jailed.exit_code}", from_outside=outside)
    return jailed


def _is_to_be_continued(unit: Unit, jailed: JailResult, watcher: _Watcher) -> bool:
    """Whether the child ended for a reason that is not its own, and this supervisor is not to start it again."""
    if is_superseded(unit.paths, unit.start):
        return True
    left = jailed.ended in ("stopped", "signalled") or jailed.exit_code == EXIT_STOPPED
    return unit.stop() and left and watcher.early is None


def _program(unit: Unit, task: Task) -> str:
    path = unit.generation.program(task.candidate_id)
    try:
        program = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CampaignError(f"{path}: program not readable ({error})") from None
    if candidate_id(program) != task.candidate_id:
        raise CampaignError(f"{path}: the program was changed after its admission; restore it or remove the candidate")
    if task.candidate_id not in unit.manifest.classes:
        raise CampaignError(f"manifest of generation {unit.manifest.generation} names no class for {task.candidate_id}")
    return program


def _prepare(unit: Unit, task: Task, folder: TaskFolder, program: str) -> Questions:
    """Put into the folder what the child needs, and keep what it must not know."""
    stage, corpus = unit.manifest.stage, unit.corpus
    # the child has the seed of the task: without the secret it can't draw the questions again, and their answers
    purpose = ("recall", "heldout", unit.secret) if unit.secret else ("recall", "heldout")
    contract = unit.manifest.contract
    drawn = None
    if "recall" in contract.probes:
        drawn = recall.heldout_set(stage.recall, np.random.default_rng(derive_seed(task.seed, *purpose)))
    text = heldout.heldout_windows(
        open_tokens(corpus.heldout, corpus.token_bytes), count=stage.heldout_sequences, seq_len=stage.seq_len
    )
    noise = np.random.default_rng(derive_seed(task.seed, "random", *purpose))
    windows = np.concatenate([text, heldout.random_windows(seq_len=stage.seq_len, vocab=corpus.vocab, rng=noise)])
    rng = np.random.default_rng(derive_seed(task.seed, "prefix"))
    positions = heldout.prefix_positions(count=stage.heldout_sequences, seq_len=stage.seq_len, rng=rng)
    order = Order(
        stage=stage,
        contract=contract,
        seed=task.seed,
        class_name=unit.manifest.classes[task.candidate_id],
        target_parameters=unit.manifest.target_parameters,
        train_path=str(corpus.train.resolve()),
        vocab=corpus.vocab,
        token_bytes=corpus.token_bytes,
        asked=tuple(drawn.asked.tolist()) if drawn else (),
        prefix_positions=tuple((row, position) for row, position in positions.tolist()),
    )
    write_message(folder.order, order)
    write_atomic(folder.program, program.encode())
    if drawn:
        write_npy(folder.recall_inputs, drawn.inputs)
    write_npy(folder.windows, windows)
    return Questions(
        recall_answers=drawn.answers if drawn else None,
        windows=windows,
        positions=positions,
        vocab=corpus.vocab,
        is_bytes=corpus.is_bytes,
        floor_nats=corpus.floor_nats,
        step_unit=stage.step_unit,
    )


def _start(unit: Unit, task: Task, tasks_done: int) -> Heartbeat:
    """The first heartbeat; time an earlier supervisor spent on the same task goes on counting."""
    now = time.time()
    fresh = Heartbeat(
        unit=unit.pack.unit,
        attempt=unit.pack.attempt,
        tasks=len(unit.pack.tasks),
        tasks_done=tasks_done,
        task=task.key,
        phase="starting",
        step=0,
        steps=0,
        loss=None,
        wall_s=0.0,
        cpu_s=0.0,
        started_unix=now,
        unix=now,
        host=platform.node(),
        pid=os.getpid(),
    )
    before = read_heartbeat(unit.paths.heartbeat)
    if before is None or before.task != task.key:
        return fresh
    return replace(fresh, wall_s=before.wall_s, cpu_s=before.cpu_s, started_unix=before.started_unix)


def _verge(unit: Unit) -> Verge:
    reference_step_s, stage = unit.manifest.reference_step_s, unit.manifest.stage
    return Verge(
        step_s=None if reference_step_s is None else stage.slow_factor * reference_step_s,
        step_unit=stage.step_unit,
        floor_nats=unit.corpus.floor_nats,
    )


def _run_child(unit: Unit, folder: TaskFolder, limit_s: float, watcher: _Watcher) -> JailResult:
    stage = unit.manifest.stage
    python = jailed_python(folder.root, threads=stage.threads)
    limits = Limits(
        wall_s=limit_s,
        cpu_s=limit_s * stage.threads + 1,
        memory_gb=stage.memory_gb,
        # weights and the two moments of AdamW in float32, and room for arrays
        file_mb=64 + 16 * unit.manifest.target_parameters / 1e6,
        processes=stage.threads + SPARE_PROCESSES,
    )
    return run_jailed(
        [sys.executable, "-P", "-m", "arch_search.worker.child", str(folder.root.resolve())],
        workdir=folder.root,
        readable=(*python.readable, unit.corpus.train.resolve()),
        limits=limits,
        environment=python.environment,
        rung=unit.manifest.jail.rung,
        on_tick=watcher,
    )


def _unfinished(unit: Unit, jailed: JailResult, early: Early | None) -> Scored:
    """The ending of a child that left no usable result."""
    if early is not None:
        return Scored(ending=early.ending, cause=early.cause)
    if jailed.ended == "timed_out":
        return _timed_out(unit, jailed.reason)
    if jailed.ended == "out_of_memory":
        return Scored(ending="out_of_memory", cause=jailed.reason)
    if jailed.ended == "exited":
        cause = f"exit code {jailed.exit_code} without a usable result. {_last_line(jailed)}"
        return Scored(ending="crashed", cause=cause)
    return Scored(ending="crashed", cause=jailed.reason)


def _timed_out(unit: Unit, detail: str) -> Scored:
    cause = f"not finished within stage.task_limit_s={unit.manifest.stage.task_limit_s} ({detail})"
    return Scored(ending="timed_out", cause=cause)


def _blank_evaluation(unit: Unit, task: Task, program: str, start: Heartbeat) -> Evaluation:
    """What is known of a task before its child has said anything."""
    return Evaluation(
        task=task,
        unit=unit.pack.unit,
        fencing_token=unit.fencing_token,
        ending="crashed",
        cause="",
        scores=(),
        curve_steps=(),
        curve_loss=(),
        tokens_seen=0,
        parameter_count=0,
        wall_s=start.wall_s,
        cpu_s=start.cpu_s,
        peak_memory_mb=0.0,
        resumed_from_step=0,
        started_unix=start.started_unix,
        host=start.host,
        versions=unit.manifest.versions,
        config_sha256=unit.manifest.config_sha256,
        program_sha256=sha256_text(program),
    )


def _with_result(record: Evaluation, result: ChildResult) -> Evaluation:
    certificate = result.certificate
    return replace(
        record,
        versions=record.versions | ({"operators": ", ".join(result.operators)} if result.operators else {}),
        curve_steps=result.curve_steps,
        curve_loss=result.curve_loss,
        tokens_seen=result.tokens_seen,
        parameter_count=result.parameter_count,
        resumed_from_step=result.resumed_from_step,
        certificate=certificate and replace(certificate, reason=_one_line(certificate.reason)),
    )


def _ended(record: Evaluation, scored: Scored) -> Evaluation:
    return replace(record, ending=scored.ending, cause=_one_line(scored.cause), scores=scored.scores)


def _one_line(text: str) -> str:
    """What a child said, which may be text of its program, as one line that can be stored."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())[:MAX_CAUSE_CHARS]


def _last_line(jailed: JailResult) -> str:
    return (jailed.stderr_tail.strip().splitlines() or ["no message"])[-1]


def _log(unit: Unit, task: Task, jailed: JailResult) -> None:
    """How the child ended and the end of what it printed; for people."""
    lines = [f"{task.key} {jailed.ended} {jailed.reason} wall {jailed.wall_s:.1f} s cpu {jailed.cpu_s:.1f} s"]
    lines += [tail[-MAX_LOG_CHARS:] for tail in (jailed.stdout_tail, jailed.stderr_tail) if tail.strip()]
    note(unit.paths, "\n".join(lines))

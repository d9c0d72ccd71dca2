"""The jailed half of a task: imports the program, trains and measures it, leaves files. Run by the supervisor only.

Trusts nothing it could protect: the program runs in this process. Whatever is written here is validated outside.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from arch_search.admission.certificate.trained import certify_trained
from arch_search.admission.framework import Framework
from arch_search.config import Stage
from arch_search.errors import ConfigError
from arch_search.evaluation import measure, recall
from arch_search.models import stand_in
from arch_search.models.compiled import compiled_blocks, import_compiler
from arch_search.models.fast_path import replaced, replacements, verified
from arch_search.models.language_model import LanguageModel
from arch_search.models.loading import build_mixer, load_mixer_class
from arch_search.models.mounting import Mount, mixer_beside
from arch_search.training.data import open_tokens
from arch_search.training.seeds import derive_seed
from arch_search.training.trainer import NextBatch, Numerics, Recipe, Step, Training, train
from arch_search.worker.folder import (
    EXIT_OURS,
    EXIT_STOPPED,
    ChildResult,
    Ints,
    Order,
    Phase,
    Progress,
    TaskFolder,
    write_array,
    write_message,
)
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json
from cognition_db.records import Certificate, from_json, to_json
from kernels.dispatch import Choice, recorded_choices
from kernels.linear_cross_entropy.naive import IGNORED

PROGRESS_EVERY_S = 0.5
RECALL_WARMUP_SHARE = 0.1
RECALL_CLIP_NORM = 1.0
MEASURED_LOGITS = 1 << 30  # 4 GB in float32


class _TamperedError(Exception):
    """The program changed what it is measured by."""


class _Stopped(Exception):
    """The training was asked to stop and has written its checkpoint."""


@dataclass(frozen=True, slots=True)
class _Inputs:
    order: Order
    recall_inputs: Ints | None  # None: the program is not probed for recall
    windows: Ints
    train_tokens: npt.NDArray[Any]


def main(root: Path) -> int:
    folder = TaskFolder(root)
    if folder.result.exists():
        return 0
    try:
        inputs = _read_inputs(folder)
    except Exception:
        traceback.print_exc()
        return EXIT_OURS
    try:
        result = _work(folder, inputs)
    except _Stopped:
        return EXIT_STOPPED
    except StoreError:
        traceback.print_exc()
        return EXIT_OURS
    except _TamperedError as error:
        result = ChildResult(ending="tampered", cause=str(error))
    except BaseException as error:
        # also SystemExit and KeyboardInterrupt: a program that raises them has crashed like any other
        traceback.print_exc()
        result = ChildResult(ending="out_of_memory" if _is_memory(error) else "crashed", cause=_cause(error, folder))
    write_message(folder.result, result)
    return 0


def _read_inputs(folder: TaskFolder) -> _Inputs:
    order = from_json(Order, read_json(folder.order))
    torch.set_num_threads(order.stage.threads)
    torch.set_num_interop_threads(1)
    if order.stage.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "stage.device=cuda and torch finds no GPU on this node; ask for one, as slurm.gres=gpu:1, or set "
            "stage.device=cpu"
        )
    return _Inputs(
        order,
        np.load(folder.recall_inputs, allow_pickle=False) if "recall" in order.contract.probes else None,
        np.load(folder.windows, allow_pickle=False),
        open_tokens(Path(order.train_path), order.token_bytes),
    )


def _work(folder: TaskFolder, inputs: _Inputs) -> ChildResult:
    stand_in.install()
    order = inputs.order
    # before the framework is looked at, as part of it
    mixer_beside(order.contract)
    if order.stage.compile_s:
        import_compiler()
    framework = Framework()
    program = load_mixer_class(folder.program, order.class_name)
    with _operators(order, program) as choices:
        result, programs = _trained(folder, inputs, program)
    certificate = None
    if result.ending == "finished":
        # of the program as it is written: a kernel is opaque to the certificate
        certificate = _certified(order, programs)
    if altered := framework.altered():
        raise _TamperedError(f"touches what is not its own in training: {altered}")
    ran = tuple(sorted(f"{choice.operator}={choice.path}" for choice in choices))
    return replace(result, certificate=certificate, operators=ran)


@contextmanager
def _operators(order: Order, program: type[nn.Module]) -> Iterator[list[Choice]]:
    """Inside, the program runs on the operators of kernels/ where the stage wants it and they compute the same.

    Gives the paths that operators take, also those that the program calls by itself.
    """
    stage = order.stage
    with ExitStack() as inside:
        if stage.operators == "kernels":
            module = sys.modules[program.__module__]
            with torch.random.fork_rng(devices=[]):
                mixer = build_mixer(program, d_model=stage.d_model, n_heads=stage.n_heads, layer_idx=0)
            inside.enter_context(replaced(module, verified(module, replacements(module), mixer, d_model=stage.d_model)))
        yield inside.enter_context(recorded_choices())


def _trained(folder: TaskFolder, inputs: _Inputs, program: type[nn.Module]) -> tuple[ChildResult, list[nn.Module]]:
    """Probe, train and measure; what came of it, and the program's modules in the trained model."""
    order = inputs.order
    recalled = None
    if inputs.recall_inputs is not None and not folder.recall_answers.exists():
        recalled = _recall(folder, order, inputs.recall_inputs, program)
    if recalled is not None and recalled.ended != "finished":
        return ChildResult(ending="non_finite", cause=f"recall: {recalled.cause}"), []
    mount = Mount(program=program, contract=order.contract, stage=order.stage, vocab=order.vocab)
    matched = mount.matched(order.target_parameters)
    torch.manual_seed(derive_seed(order.seed, "language_model", "weights"))
    model = mount.model(matched.feed_forward)
    reporter = _Reporter(folder, "language_model", order.stage.steps)
    with _compiled(folder, order.stage, model):
        training = train(
            model,
            _text_batches(order, inputs.train_tokens),
            recipe=_text_recipe(order),
            checkpoint_path=folder.checkpoint("language_model"),
            should_stop=reporter,
            on_saved=reporter.saved,
            numerics=_numerics(order.stage),
        )
    _stop_if_asked(training)
    if training.ended == "finished":
        _measure(folder, inputs, model)
    probed_steps = 0 if inputs.recall_inputs is None else order.stage.recall.steps
    resumed = probed_steps + training.resumed_from_step if recalled is None else recalled.resumed_from_step
    result = ChildResult(
        ending="finished" if training.ended == "finished" else "non_finite",
        cause=training.cause,
        curve_steps=training.curve_steps,
        curve_loss=training.curve_loss,
        tokens_seen=training.tokens_seen,
        parameter_count=matched.parameter_count,
        resumed_from_step=resumed,
        step_s=training.step_s,
    )
    return result, mount.programs(model)


def _compiled(folder: TaskFolder, stage: Stage, model: LanguageModel) -> AbstractContextManager[None]:
    """Inside, the model's blocks may run compiled; it is measured and certified as it is written."""
    numerics = _numerics(stage)
    model.to(numerics.device)
    return compiled_blocks(
        model,
        shape=(stage.micro_batch or stage.batch_size, stage.seq_len),
        precision=numerics.precision,
        limit_s=stage.compile_s,
        cache=folder.compiled,
    )


def _measure(folder: TaskFolder, inputs: _Inputs, model: LanguageModel) -> None:
    """Leave what the trained model says of the held-out windows."""
    order = inputs.order
    before = measure.state_sha256(model)
    write_array(folder.heldout_nll, measure.token_nll(model, inputs.windows, batch_size=_measured_at_once(order)))
    positions = np.asarray(order.prefix_positions, dtype=np.int64)
    write_array(folder.prefix_nll, measure.prefix_nll(model, inputs.windows, positions))
    if measure.state_sha256(model) != before:
        raise _TamperedError("its parameters or buffers changed while it was measured")


def _certified(order: Order, programs: list[nn.Module]) -> Certificate:
    stage, programs = order.stage, [program.cpu() for program in programs]
    return certify_trained(programs, d_model=stage.d_model, n_heads=stage.n_heads, seq_len=stage.seq_len)


def _recall(folder: TaskFolder, order: Order, questions: Ints, program: type[nn.Module]) -> Training:
    """Train the probe model on overwrite recall and leave its answers."""
    probe = order.stage.recall
    torch.manual_seed(derive_seed(order.seed, "recall", "weights"))
    model = LanguageModel(
        lambda layer: build_mixer(program, d_model=probe.d_model, n_heads=probe.n_heads, layer_idx=layer),
        vocab=probe.vocab,
        d_model=probe.d_model,
        n_layers=probe.n_layers,
        feed_forward=0,
    )
    recipe = Recipe(
        steps=probe.steps,
        lr=probe.lr,
        warmup_steps=int(RECALL_WARMUP_SHARE * probe.steps),
        weight_decay=0.0,
        clip_norm=RECALL_CLIP_NORM,
        seed=derive_seed(order.seed, "recall"),
        checkpoint_every_s=order.stage.checkpoint_every_s,
    )

    def next_batch(step: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        drawn = recall.training_set(probe, step, rng)
        targets = torch.full(drawn.inputs.shape, IGNORED)
        targets[:, drawn.asked] = torch.from_numpy(drawn.answers)
        return torch.from_numpy(drawn.inputs), targets

    reporter = _Reporter(folder, "recall", probe.steps)
    training = train(
        model,
        next_batch,
        recipe=recipe,
        checkpoint_path=folder.checkpoint("recall"),
        should_stop=reporter,
        on_saved=reporter.saved,
        numerics=Numerics(device=torch.device(order.stage.device)),
    )
    _stop_if_asked(training)
    if training.ended == "finished":
        asked = np.asarray(order.asked, dtype=np.int64)
        found = measure.answers(model, questions, asked, batch_size=probe.batch_size)
        write_array(folder.recall_answers, found)
    return training


def _text_recipe(order: Order) -> Recipe:
    stage = order.stage
    return Recipe(
        steps=stage.steps,
        lr=stage.lr,
        warmup_steps=stage.warmup_steps,
        weight_decay=stage.weight_decay,
        clip_norm=stage.clip_norm,
        seed=derive_seed(order.seed, "language_model"),
        checkpoint_every_s=stage.checkpoint_every_s,
    )


def _measured_at_once(order: Order) -> int:
    """Sequences whose logits are held together, when the model is measured."""
    fitting = MEASURED_LOGITS // (order.stage.seq_len * order.vocab)
    return max(1, min(order.stage.micro_batch or order.stage.batch_size, fitting))


def _numerics(stage: Stage) -> Numerics:
    return Numerics(
        device=torch.device(stage.device),
        precision=torch.bfloat16 if stage.precision == "bfloat16" else torch.float32,
        micro_batch=stage.micro_batch,
    )


def _text_batches(order: Order, tokens: npt.NDArray[Any]) -> NextBatch:
    """Windows of the training tokens at random places."""
    length = order.stage.seq_len + 1
    reach = np.arange(length)

    def next_batch(step: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        starts = rng.integers(0, len(tokens) - length + 1, order.stage.batch_size)
        windows = torch.from_numpy(tokens[starts[:, None] + reach].astype(np.int64))
        return windows[:, :-1], windows[:, 1:]

    return next_batch


class _Reporter:
    """Reports progress about twice a second and at each checkpoint; says whether the supervisor asks for an end."""

    def __init__(self, folder: TaskFolder, phase: Phase, steps: int) -> None:
        self._folder = folder
        self._phase = phase
        self._steps = steps
        self._saved_step = 0
        self._step: Step | None = None
        self._reported_at = -PROGRESS_EVERY_S

    def __call__(self, step: Step) -> bool:
        self._step = step
        if time.monotonic() - self._reported_at >= PROGRESS_EVERY_S:
            self._report(step)
        return self._folder.stop.exists()

    def saved(self, step: int) -> None:
        self._saved_step = step
        if self._step is not None:
            self._report(self._step)

    def _report(self, step: Step) -> None:
        self._reported_at = time.monotonic()
        progress = Progress(
            phase=self._phase,
            step=step.step,
            steps=self._steps,
            loss=step.loss,
            step_s=step.step_s,
            cpu_s=time.process_time(),
            saved_step=self._saved_step,
        )
        _write_progress(self._folder.progress, progress)


def _write_progress(path: Path, progress: Progress) -> None:
    # not durable on purpose: a lost progress report costs nothing, a sync twice a second would
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(to_json(progress)))
    os.replace(fresh, path)


def _stop_if_asked(training: Training) -> None:
    if training.ended == "stopped":
        raise _Stopped


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _cause(error: BaseException, folder: TaskFolder) -> str:
    """One line: what was raised and on which line of the program."""
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(folder.program)), None)
    words = " ".join(str(error).split())[:200]
    where = f" (program.py line {line})" if line is not None else ""
    return f"{type(error).__name__}: {words}{where}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

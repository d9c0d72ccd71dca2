"""The training loop, one for every task: AdamW, warm-up and cosine, clipping, curve, checkpoint and exact resume.

Batches and dropout of step n follow from the seed and n alone, so a resumed run meets the numbers an undisturbed one
met and nothing but tensors and counters has to be saved. A batch that does not fit is gone through in parts whose
gradients add up. B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arch_search.models.language_model import LanguageModel
from arch_search.training import checkpoint
from arch_search.training.adamw import AdamW
from arch_search.training.seeds import derive_seed
from kernels.linear_cross_entropy.naive import IGNORED

CPU = torch.device("cpu")
LAST_LR_SHARE = 0.1
CURVE_POINTS = 40
# losses averaged in `Step.loss`; times whose median is `Training.step_s`
SMOOTHED_STEPS = 16
TIMED_STEPS = 101

# step -> tokens [B, T] int64 and targets [B, T] int64 with IGNORED where nothing is asked
NextBatch = Callable[[int, np.random.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    steps: int
    lr: float  # after warm-up; falls along a cosine to a tenth
    warmup_steps: int
    weight_decay: float  # on parameters of two dimensions and more
    clip_norm: float
    seed: int  # of data order and dropout; the caller seeds the initial weights
    checkpoint_every_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """How a step is computed, apart from what it computes."""

    device: torch.device = CPU
    precision: torch.dtype = torch.float32  # of products; weights, sums and the optimiser's state stay float32
    micro_batch: int = 0  # sequences at once; 0: the whole batch

    @property
    def is_plain(self) -> bool:
        """The whole batch at once in float32, which every model with logits can do."""
        return not self.micro_batch and self.precision == torch.float32

    def clock(self) -> float:
        """Seconds in which a step is counted: CPU time, on a GPU time on the wall."""
        return time.process_time() if self.device.type == "cpu" else time.perf_counter()


PLAIN = Numerics()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Where a training stands after an optimiser step; `loss` is the mean of the last 16, nats per asked token."""

    step: int
    loss: float
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a training came to. `step_s` is the median time of a step, by `Numerics.clock`."""

    ended: Literal["finished", "non_finite", "stopped"]
    cause: str
    curve_steps: tuple[int, ...]
    curve_loss: tuple[float, ...]
    steps: int
    tokens_seen: int
    resumed_from_step: int
    step_s: float


@dataclass(slots=True, kw_only=True)
class _Record:
    """Counters and curve so far; the part of a checkpoint that is not tensors."""

    step: int = 0
    tokens_seen: int = 0
    curve_steps: list[int] = field(default_factory=list)
    curve_loss: list[float] = field(default_factory=list)
    interval_losses: list[float] = field(default_factory=list)
    recent_losses: deque[float] = field(default_factory=lambda: deque(maxlen=SMOOTHED_STEPS))
    recent_s: deque[float] = field(default_factory=lambda: deque(maxlen=TIMED_STEPS))

    def add(self, loss: float, tokens: int, seconds: float, steps: int) -> None:
        self.step += 1
        self.tokens_seen += tokens
        self.recent_losses.append(loss)
        self.recent_s.append(seconds)
        self.interval_losses.append(loss)
        if self.step % max(1, steps // CURVE_POINTS) == 0 or self.step == steps:
            self.curve_steps.append(self.step)
            self.curve_loss.append(statistics.fmean(self.interval_losses))
            self.interval_losses.clear()

    def position(self) -> Step:
        return Step(step=self.step, loss=statistics.fmean(self.recent_losses), step_s=statistics.median(self.recent_s))

    def plain(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens_seen": self.tokens_seen,
            "curve_steps": list(self.curve_steps),
            "curve_loss": list(self.curve_loss),
            "interval_losses": list(self.interval_losses),
            "recent_losses": list(self.recent_losses),
            "recent_s": list(self.recent_s),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> _Record:
        record = cls(**plain)
        record.recent_losses = deque(plain["recent_losses"], maxlen=SMOOTHED_STEPS)
        record.recent_s = deque(plain["recent_s"], maxlen=TIMED_STEPS)
        return record


def train(
    model: nn.Module,
    next_batch: NextBatch,
    *,
    recipe: Recipe,
    checkpoint_path: Path,
    should_stop: Callable[[Step], bool],
    on_saved: Callable[[int], None] = lambda step: None,
    numerics: Numerics = PLAIN,
) -> Training:
    """Train `model` in place, from the checkpoint where there is one; a loss that is not finite ends it as a value.

    `should_stop` sees every step; once it says true, a checkpoint is written and the training comes back "stopped".
    `on_saved` hears the step of each checkpoint once it is durable, and of the one that is resumed from. The model is
    moved to the device of `numerics`; it is a LanguageModel wherever they are not plain.
    """
    model.to(numerics.device)
    is_fused = numerics.device.type == "cuda"
    optimiser = AdamW(model.parameters(), weight_decay=recipe.weight_decay, is_fused=is_fused)
    record = _restored(model, optimiser, checkpoint_path)
    resumed_from_step = record.step
    if resumed_from_step:
        on_saved(resumed_from_step)
    schedule = checkpoint.Schedule(every_s=recipe.checkpoint_every_s, begun=time.monotonic())
    model.train()
    while record.step < recipe.steps:
        cause = _one_step(model, optimiser, next_batch, recipe, record, numerics)
        if cause:
            return _training("non_finite", cause, record, resumed_from_step)
        stopped = should_stop(record.position())
        last = record.step == recipe.steps
        if stopped or last or schedule.is_due(time.monotonic()):
            begun = time.monotonic()
            _save(checkpoint_path, model, optimiser, record)
            on_saved(record.step)
            schedule.note(begun, time.monotonic())
        if stopped and not last:
            return _training("stopped", "asked to stop", record, resumed_from_step)
    return _training("finished", "", record, resumed_from_step)


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of optimiser step `step`, counted from 0."""
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - 1 - recipe.warmup_steps)
    return recipe.lr * (LAST_LR_SHARE + (1 - LAST_LR_SHARE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def _one_step(
    model: nn.Module, optimiser: AdamW, next_batch: NextBatch, recipe: Recipe, record: _Record, numerics: Numerics
) -> str:
    """One optimiser step; the cause where loss or gradient is not finite, else an empty string."""
    step = record.step
    tokens, targets = next_batch(step, np.random.default_rng(derive_seed(recipe.seed, "data", step)))
    torch.manual_seed(derive_seed(recipe.seed, "dropout", step))
    started = numerics.clock()
    tokens, targets = tokens.to(numerics.device), targets.to(numerics.device)
    optimiser.zero_grad()
    if numerics.is_plain:
        value = _whole_backward(model, tokens, targets)
    else:
        assert isinstance(model, LanguageModel), "a loss without logits is a LanguageModel's"
        value = _backward_in_parts(model, tokens, targets, numerics)
    if not math.isfinite(value):
        return f"training loss is {value} at step {step + 1}"
    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm).item()
    if not math.isfinite(norm):
        return f"gradient norm is {norm} at step {step + 1}"
    optimiser.step(learning_rate(recipe, step))
    record.add(value, tokens.numel(), numerics.clock() - started, recipe.steps)
    return ""


def _whole_backward(model: nn.Module, tokens: Tensor, targets: Tensor) -> float:
    """The mean loss; leaves its gradients where it is finite."""
    loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    value = loss.item()
    if math.isfinite(value):
        torch.autograd.backward(loss)
    return value


def _backward_in_parts(model: LanguageModel, tokens: Tensor, targets: Tensor, numerics: Numerics) -> float:
    """As `_whole_backward`; whether the loss is finite is known after the last part."""
    count = (targets != IGNORED).sum()
    total = torch.zeros((), device=tokens.device)
    size = numerics.micro_batch or len(tokens)
    is_narrow = numerics.precision != torch.float32
    for part, asked in zip(torch.split(tokens, size), torch.split(targets, size), strict=True):
        with torch.autocast(tokens.device.type, dtype=numerics.precision, enabled=is_narrow):
            loss = model.loss(part, asked, count=count)
        torch.autograd.backward(loss)
        total += loss.detach()
    return total.item()


def _save(path: Path, model: nn.Module, optimiser: AdamW, record: _Record) -> None:
    state = {"model": model.state_dict(), "optimiser": optimiser.state(), "record": record.plain()}
    checkpoint.save(path, state)


def _restored(model: nn.Module, optimiser: AdamW, path: Path) -> _Record:
    state = checkpoint.load(path)
    if state is None:
        return _Record()
    model.load_state_dict(state["model"])
    optimiser.load(state["optimiser"])
    return _Record.from_plain(state["record"])


def _training(
    ended: Literal["finished", "non_finite", "stopped"], cause: str, record: _Record, resumed_from_step: int
) -> Training:
    return Training(
        ended=ended,
        cause=cause,
        curve_steps=tuple(record.curve_steps),
        curve_loss=tuple(record.curve_loss),
        steps=record.step,
        tokens_seen=record.tokens_seen,
        resumed_from_step=resumed_from_step,
        step_s=statistics.median(record.recent_s) if record.recent_s else 0.0,
    )

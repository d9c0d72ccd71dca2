"""When a running task is ended early: pure judgements on the progress its child reports."""

from __future__ import annotations

import math
from dataclasses import dataclass

from arch_search.worker.folder import Progress
from cognition_db.records import Ending

# the first steps pay for warm-up of caches and say nothing about speed
FIRST_JUDGED_STEP = 5
# `Progress.loss` is a mean over this many steps; a single odd batch must not end a task
FLOOR_FROM_STEP = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Verge:
    """The limits of a language-model training: per step, in `step_unit` (None: no limit), and nats per token."""

    step_s: float | None
    step_unit: str
    floor_nats: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Early:
    """An ending that the watcher decided."""

    ending: Ending
    cause: str


def judge(progress: Progress, verge: Verge) -> Early | None:
    """The ending that this progress calls for, or None while it is well."""
    if not math.isfinite(progress.loss):
        return Early(ending="non_finite", cause=f"training loss is {progress.loss} at step {progress.step}")
    if progress.phase != "language_model":
        return None
    if verge.step_s is not None and progress.step >= FIRST_JUDGED_STEP and progress.step_s > verge.step_s:
        return Early(
            ending="too_slow",
            cause=f"{progress.step_s:.3g} {verge.step_unit} a step at step {progress.step}, limit {verge.step_s:.3g} "
            "(stage.slow_factor times the reference)",
        )
    if progress.step >= FLOOR_FROM_STEP and progress.loss < verge.floor_nats:
        return Early(ending="below_floor", cause=floor_cause("training", progress.loss, verge.floor_nats))
    return None


def floor_cause(which: str, loss: float, floor_nats: float) -> str:
    return (
        f"{which} loss {loss:.3f} nats is below {floor_nats:.3f}, a quarter of what xz needs for this text: "
        "the program sees the token it is to predict"
    )

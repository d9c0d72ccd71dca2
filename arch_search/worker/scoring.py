"""From what a child left to how its task ended and what it scored: trusted code, outside the jail."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from arch_search.config import Stage
from arch_search.evaluation import heldout, recall
from arch_search.worker.folder import MAX_CURVE_POINTS, ChildResult, Ints, TaskFolder, read_array, read_message
from arch_search.worker.watch import floor_cause
from cognition_db.records import Certificate, Ending, Score

# no finite model of float32 logits gives a token a larger loss, in nats, than the range of its logits; far beyond use
MAX_NLL_NATS = 1e4
MAX_OPERATORS = 20
_OPERATOR = re.compile(r"[a-z_0-9]{1,40}=[a-z_]{1,20}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What a task is scored on: recall_answers [N, K], which never enter the jail, None where there is no such probe;
    windows [N+16, T+1], of which the last 16 are of random tokens; positions [P, 2].
    """

    recall_answers: Ints | None
    windows: Ints
    positions: Ints
    vocab: int
    is_bytes: bool
    floor_nats: float
    step_unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    ending: Ending
    cause: str
    scores: tuple[Score, ...] = ()


def read_result(folder: TaskFolder, stage: Stage) -> ChildResult | None:
    """The child's account of itself, or None where it left none or one that cannot be true."""
    result = read_message(folder.result, ChildResult)
    return result if result is not None and _is_possible(result, stage) else None


def score(result: ChildResult, folder: TaskFolder, questions: Questions) -> Scored:
    """Ending and scores of a task whose child came to an end by itself."""
    if result.ending != "finished":
        return Scored(ending=result.ending, cause=result.cause or result.ending)
    shape = (questions.windows.shape[0], questions.windows.shape[1] - 1)
    accuracy = _recall_accuracy(folder, questions.recall_answers)
    nll = read_array(folder.heldout_nll, shape=shape, dtype="<f4")
    prefix_nll = read_array(folder.prefix_nll, shape=(len(questions.positions),), dtype="<f4")
    if accuracy is None or nll is None or prefix_nll is None:
        return Scored(ending="crashed", cause="the child said finished but left no complete measurements")
    if not (np.isfinite(nll).all() and np.isfinite(prefix_nll).all()):
        return Scored(ending="non_finite", cause="held-out loss is not finite")
    if nll.min() < 0 or max(nll.max(), prefix_nll.max()) > MAX_NLL_NATS:
        return Scored(ending="crashed", cause=f"held-out loss of a token outside 0..{MAX_NLL_NATS:g} nats")
    text, noise = nll[: -heldout.RANDOM_WINDOWS], nll[-heldout.RANDOM_WINDOWS :]
    loss, *others = heldout.heldout_scores(text, is_bytes=questions.is_bytes)
    on_noise = heldout.random_loss(noise, is_bytes=questions.is_bytes)
    gap = heldout.prefix_gap(text, prefix_nll, questions.positions)
    unit = f"{questions.step_unit} per step"
    speed = Score(name="step_s", value=result.step_s, count=len(result.curve_steps), unit=unit)
    scores = (*accuracy, loss, *others, on_noise, gap, speed)
    lowest = min(loss.value, *result.curve_loss)
    if lowest < questions.floor_nats:
        return Scored(ending="below_floor", cause=floor_cause("lowest", lowest, questions.floor_nats), scores=scores)
    if on_noise.value < math.log(questions.vocab) - heldout.RANDOM_TOLERANCE_NATS:
        cause = (
            f"loss of {on_noise.value:.3g} nats on tokens drawn at random, of which no model that does not see them "
            f"can know more than {math.log(questions.vocab):.3g}: the program sees its targets"
        )
        return Scored(ending="below_floor", cause=cause, scores=scores)
    if gap.value > heldout.PREFIX_TOLERANCE_NATS:
        cause = (
            f"prefix-only loss differs from full-sequence loss by {gap.value:.3g} nats: "
            "the program sees the future or the length"
        )
        return Scored(ending="below_floor", cause=cause, scores=scores)
    if result.certificate is not None and result.certificate.outcome == "failed":
        cause = f"with trained weights: {result.certificate.reason}"
        return Scored(ending="below_floor", cause=cause, scores=scores)
    return Scored(ending="finished", cause="", scores=scores)


def _recall_accuracy(folder: TaskFolder, due: Ints | None) -> tuple[Score, ...] | None:
    """The score of the recall probe, nothing where it was not asked, None where the child left no answers."""
    if due is None:
        return ()
    answers = read_array(folder.recall_answers, shape=due.shape, dtype="<i8")
    return None if answers is None else (recall.accuracy(answers, due),)


def _is_possible(result: ChildResult, stage: Stage) -> bool:
    steps, losses = result.curve_steps, result.curve_loss
    return (
        len(steps) == len(losses) <= MAX_CURVE_POINTS
        and all(earlier < later for earlier, later in zip((0, *steps), steps, strict=False))
        and all(step <= stage.steps for step in steps)
        and all(math.isfinite(loss) and loss >= 0 for loss in losses)
        and (result.ending != "finished" or (bool(steps) and steps[-1] == stage.steps))
        and 0 <= result.tokens_seen <= stage.steps * stage.batch_size * stage.seq_len
        and 0 <= result.parameter_count < 1 << 50
        and 0 <= result.resumed_from_step <= stage.steps + stage.recall.steps
        and math.isfinite(result.step_s)
        and result.step_s >= 0
        and len(result.operators) <= MAX_OPERATORS
        and all(_OPERATOR.fullmatch(one) for one in result.operators)
        and (result.ending == "finished") == (result.certificate is not None)
        and (result.certificate is None or _is_possible_certificate(result.certificate, stage))
    )


def _is_possible_certificate(certificate: Certificate, stage: Stage) -> bool:
    return (
        0 < certificate.length <= stage.seq_len
        and certificate.layers == stage.n_layers
        and 0 <= certificate.operators < 10_000
        and 0 <= certificate.seconds <= stage.task_limit_s * stage.threads
    )

"""Overwrite recall: keys are written several times, then each is asked, and the value written last counts.

A sequence is `writes` pairs (key, value), then one pair (key, blank) per key; the answer is due at the key of a
question and stands nowhere after it. Tokens: 0 is the blank, then the keys, then the values. N sequences, T tokens,
K keys of one sequence. Source of the task's form: multi-query associative recall, arXiv 2312.04927; overwriting added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from arch_search.config import Recall
from arch_search.errors import ConfigError
from cognition_db.records import Score

Ints = npt.NDArray[np.int64]
BLANK = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallSet:
    """inputs [N, T]; asked [K], the positions of the questions; answers [N, K], the values due there."""

    inputs: Ints
    asked: Ints
    answers: Ints


def draw(recall: Recall, *, writes: int, count: int, rng: np.random.Generator) -> RecallSet:
    """`count` random sequences of `writes` writes over `recall.keys` keys, each key written at least once."""
    first_value = _first_value(recall)
    if writes < recall.keys or first_value - 1 < recall.keys:
        raise ConfigError(
            f"recall: {writes} writes and {first_value - 1} key tokens for recall.keys={recall.keys}; "
            "writes and (vocab - 1) / 2 must not be smaller than keys"
        )
    keys = 1 + rng.random((count, first_value - 1)).argsort(axis=1)[:, : recall.keys]
    again = rng.integers(0, recall.keys, (count, writes - recall.keys))
    which = rng.permuted(np.hstack([np.tile(np.arange(recall.keys), (count, 1)), again]), axis=1)
    values = rng.integers(first_value, recall.vocab, (count, writes))
    last = np.zeros((count, recall.keys), dtype=np.int64)
    for write in range(writes):
        np.put_along_axis(last, which[:, write : write + 1], values[:, write : write + 1], axis=1)
    order = rng.permuted(np.tile(np.arange(recall.keys), (count, 1)), axis=1)
    inputs = np.full((count, 2 * (writes + recall.keys)), BLANK, dtype=np.int64)
    inputs[:, 0 : 2 * writes : 2] = np.take_along_axis(keys, which, axis=1)
    inputs[:, 1 : 2 * writes : 2] = values
    inputs[:, 2 * writes :: 2] = np.take_along_axis(keys, order, axis=1)
    asked = 2 * writes + 2 * np.arange(recall.keys)
    return RecallSet(inputs=inputs, asked=asked, answers=np.take_along_axis(last, order, axis=1))


def training_set(recall: Recall, step: int, rng: np.random.Generator) -> RecallSet:
    """The batch of training step `step`: a quarter, half and all of the writes in turn."""
    writes = max(recall.keys, recall.writes // (4, 2, 1)[step % 3])
    return draw(recall, writes=writes, count=recall.batch_size, rng=rng)


def heldout_set(recall: Recall, rng: np.random.Generator) -> RecallSet:
    """The sequences an evaluation is scored on, all with the largest number of writes."""
    return draw(recall, writes=recall.writes, count=recall.eval_sequences, rng=rng)


def accuracy(predicted: Ints, answers: Ints) -> Score:
    """Share of the asked keys [N, K] that were answered with the value written last."""
    return Score(
        name="recall_accuracy", value=float((predicted == answers).mean()), count=answers.size, unit="share of answers"
    )


def _first_value(recall: Recall) -> int:
    return 1 + (recall.vocab - 1) // 2

"""Held-out loss: which windows are read, and the scores that follow from the loss of each of their tokens.

N windows of T+1 tokens: T inputs and, one later, T targets.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from arch_search.errors import DataError
from cognition_db.records import Score

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
PREFIX_POSITIONS = 8
RANDOM_WINDOWS = 16
# far outside the noise of a mean over a thousand tokens; a model that copies its targets is below by all of log(vocab)
RANDOM_TOLERANCE_NATS = 0.5
# float32 losses of one token differ by about 1e-5 between lengths; a tenth of a percent of a nat is far outside that
PREFIX_TOLERANCE_NATS = 1e-3


def heldout_windows(tokens: npt.NDArray[Any], *, count: int, seq_len: int) -> Ints:
    """The same `count` windows [N, T+1] for every task: evenly spaced over all held-out tokens [any]."""
    if len(tokens) <= seq_len:
        raise DataError(f"data: {len(tokens)} held-out tokens are too few for stage.seq_len={seq_len}; give more data")
    starts = np.linspace(0, len(tokens) - seq_len - 1, count).astype(np.int64)
    return np.stack([tokens[start : start + seq_len + 1] for start in starts]).astype(np.int64)


def random_windows(*, seq_len: int, vocab: int, rng: np.random.Generator) -> Ints:
    """Windows [16, T+1] of tokens that nothing predicts: each of `vocab` is as likely everywhere."""
    return rng.integers(0, vocab, (RANDOM_WINDOWS, seq_len + 1))


def random_loss(nll: Floats, *, is_bytes: bool) -> Score:
    """Mean loss on random windows from that of every token [16, T].

    Its expectation is at least log(vocab) for every model that does not see its targets, whatever it has learned.
    """
    mean = float(nll.mean(dtype=np.float64))
    return Score(name="random_loss", value=mean, count=nll.size, unit=_unit(is_bytes))


def _unit(is_bytes: bool) -> str:
    return "nats per byte" if is_bytes else "nats per token"


def prefix_positions(*, count: int, seq_len: int, rng: np.random.Generator) -> Ints:
    """Places [8, 2], (window, position), where the loss is measured again on the prefix alone."""
    return np.stack([rng.integers(0, count, PREFIX_POSITIONS), rng.integers(0, seq_len, PREFIX_POSITIONS)], axis=1)


def heldout_scores(nll: Floats, *, is_bytes: bool) -> tuple[Score, ...]:
    """Mean loss from the loss of every token [N, T], nats; for bytes also in bits."""
    mean = float(nll.mean(dtype=np.float64))
    loss = Score(name="heldout_loss", value=mean, count=nll.size, unit=_unit(is_bytes))
    if not is_bytes:
        return (loss,)
    return loss, Score(name="bits_per_byte", value=mean / math.log(2), count=nll.size, unit="bits per byte")


def prefix_gap(nll: Floats, prefix_nll: Floats, positions: Ints) -> Score:
    """Largest difference between the loss of a token in the whole window and with the prefix alone.

    A causal model shows rounding only; more than PREFIX_TOLERANCE_NATS means that it sees the future or the length.
    """
    whole = nll[positions[:, 0], positions[:, 1]].astype(np.float64)
    gap = float(np.abs(whole - prefix_nll).max())
    return Score(name="prefix_gap", value=gap, count=len(positions), unit="nats")

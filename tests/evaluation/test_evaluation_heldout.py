"""Held-out loss: the right numbers for a known model, and a gap for every program that reads ahead."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arch_search.errors import DataError
from arch_search.evaluation.heldout import (
    PREFIX_TOLERANCE_NATS,
    RANDOM_TOLERANCE_NATS,
    heldout_scores,
    heldout_windows,
    prefix_gap,
    prefix_positions,
    random_loss,
    random_windows,
)
from arch_search.evaluation.measure import answers, prefix_nll, token_nll

V, N, T = 32, 6, 40
TOKENS = np.random.default_rng(0).integers(0, V, 4000).astype(np.uint16)
WINDOWS = heldout_windows(TOKENS, count=N, seq_len=T)
POSITIONS = prefix_positions(count=N, seq_len=T, rng=np.random.default_rng(1))


class Uniform(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, V)


class Mixer(nn.Module):
    """Causal running sum, or one that reads ahead in a way a usual mistake would."""

    def __init__(self, leak: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.leak = leak
        self.embedding = nn.Embedding(V, 16)
        self.head = nn.Linear(16, V)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        mixed = x.cumsum(dim=1) / 10
        if self.leak == "next token":
            mixed = mixed + F.pad(x[:, 1:], (0, 0, 0, 1))
        if self.leak == "mean over time":
            mixed = mixed - x.mean(dim=1, keepdim=True)
        if self.leak == "length":
            mixed = mixed * (1 + tokens.shape[1] / 100)
        logits: Tensor = self.head(torch.tanh(mixed))
        return logits


def gap_of(model: nn.Module) -> float:
    nll = token_nll(model, WINDOWS, batch_size=4)
    return prefix_gap(nll, prefix_nll(model, WINDOWS, POSITIONS), POSITIONS).value


def test_windows_are_spread_over_the_whole_text_and_always_the_same() -> None:
    assert WINDOWS.shape == (N, T + 1)
    assert (WINDOWS[0] == TOKENS[: T + 1]).all()
    assert (WINDOWS[-1] == TOKENS[-T - 1 :]).all()
    assert (heldout_windows(TOKENS, count=N, seq_len=T) == WINDOWS).all()


def test_too_little_text_for_one_window_is_named() -> None:
    with pytest.raises(DataError, match="too few for stage"):
        heldout_windows(TOKENS[:40], count=N, seq_len=40)


def test_a_model_that_knows_nothing_pays_the_logarithm_of_the_vocabulary() -> None:
    nll = token_nll(Uniform(), WINDOWS, batch_size=4)
    assert nll.shape == (N, T)
    assert nll.dtype == np.float32
    assert nll == pytest.approx(math.log(V))


def test_bits_are_nats_over_ln2_and_only_given_for_bytes() -> None:
    nll = np.full((2, 3), 1.5, dtype=np.float32)
    loss, bits = heldout_scores(nll, is_bytes=True)
    assert (loss.value, loss.count) == (1.5, 6)
    assert bits.value == pytest.approx(1.5 / math.log(2))
    assert [score.name for score in heldout_scores(nll, is_bytes=False)] == ["heldout_loss"]


def test_a_causal_model_has_the_same_loss_on_the_prefix_alone() -> None:
    assert gap_of(Mixer("none")) < PREFIX_TOLERANCE_NATS / 10


@pytest.mark.parametrize("leak", ["next token", "mean over time", "length"])
def test_a_model_that_reads_ahead_shows_a_gap(leak: str) -> None:
    assert gap_of(Mixer(leak)) > PREFIX_TOLERANCE_NATS


@pytest.mark.parametrize("leak, sees", [("none", False), ("next token", True)])
def test_trained_on_noise_only_what_sees_its_targets_gets_below_the_floor_of_random_tokens(
    leak: str, sees: bool
) -> None:
    rng = np.random.default_rng(5)
    model = Mixer(leak)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        batch = torch.from_numpy(random_windows(seq_len=T, vocab=V, rng=rng))
        loss = F.cross_entropy(model(batch[:, :-1]).transpose(1, 2), batch[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    nll = token_nll(model, random_windows(seq_len=T, vocab=V, rng=rng), batch_size=4)
    found = random_loss(nll, is_bytes=False)
    assert found.count == 16 * T
    assert (found.value < math.log(V) - RANDOM_TOLERANCE_NATS) is sees, found.value


def test_random_windows_hold_every_token_equally_often() -> None:
    drawn = random_windows(seq_len=999, vocab=V, rng=np.random.default_rng(3))
    assert drawn.shape == (16, 1000)
    assert np.bincount(drawn.ravel(), minlength=V) == pytest.approx(16_000 / V, rel=0.2)


def test_answers_are_the_most_likely_tokens_at_the_asked_positions() -> None:
    model = Mixer("none")
    asked = np.array([3, 7])
    found = answers(model, WINDOWS, asked, batch_size=4)
    assert (found == model(torch.from_numpy(WINDOWS)).argmax(dim=-1)[:, asked].numpy()).all()

"""Overwrite recall: sequences as described, and a score that only knowledge of the last write reaches."""

from __future__ import annotations

import numpy as np
import pytest

from arch_search.config import Recall
from arch_search.errors import ConfigError
from arch_search.evaluation.recall import BLANK, RecallSet, accuracy, draw, heldout_set, training_set


def settings(keys: int = 6, vocab: int = 64) -> Recall:
    return Recall(
        steps=1,
        batch_size=16,
        keys=keys,
        writes=24,
        vocab=vocab,
        d_model=64,
        n_layers=2,
        n_heads=2,
        lr=1e-3,
        eval_sequences=200,
    )


def replayed(drawn: RecallSet, row: int, *, keep_first: bool = False) -> list[int]:
    """What a memory that is written token by token answers to one sequence."""
    memory: dict[int, int] = {}
    sequence = drawn.inputs[row].tolist()
    for key, value in zip(sequence[: drawn.asked[0] : 2], sequence[1 : drawn.asked[0] : 2], strict=True):
        memory[key] = memory.get(key, value) if keep_first else value
    return [memory[sequence[position]] for position in drawn.asked]


def test_the_answer_is_the_value_written_last() -> None:
    drawn = heldout_set(settings(), np.random.default_rng(0))
    assert [replayed(drawn, row) for row in range(200)] == drawn.answers.tolist()


def test_a_memory_that_keeps_the_first_value_answers_wrongly() -> None:
    drawn = heldout_set(settings(), np.random.default_rng(0))
    first = np.array([replayed(drawn, row, keep_first=True) for row in range(200)])
    assert accuracy(first, drawn.answers).value < 0.3


def test_a_sequence_has_sixty_tokens_and_asks_every_key_once() -> None:
    drawn = heldout_set(settings(), np.random.default_rng(0))
    assert drawn.inputs.shape == (200, 60)
    questions = drawn.inputs[:, drawn.asked]
    assert all(len(set(row)) == 6 for row in questions.tolist())
    assert (drawn.inputs[:, drawn.asked + 1] == BLANK).all()


def test_keys_and_values_share_no_token() -> None:
    drawn = heldout_set(settings(), np.random.default_rng(0))
    assert not set(drawn.inputs[:, 0:48:2].ravel().tolist()) & set(drawn.inputs[:, 1:48:2].ravel().tolist())
    assert drawn.inputs.max() < 64


def test_training_takes_a_quarter_half_and_all_of_the_writes_in_turn() -> None:
    lengths = [training_set(settings(), step, np.random.default_rng(step)).inputs.shape[1] for step in range(4)]
    assert lengths == [24, 36, 60, 24]


def test_the_same_seed_gives_the_same_sequences_and_another_gives_others() -> None:
    one, same, other = (heldout_set(settings(), np.random.default_rng(seed)).inputs for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_accuracy_counts_every_question() -> None:
    score = accuracy(np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]]))
    assert (score.name, score.value, score.count) == ("recall_accuracy", 0.75, 4)


@pytest.mark.parametrize("keys, vocab, writes", [(6, 10, 24), (30, 64, 24)])
def test_settings_that_cannot_be_drawn_are_named(keys: int, vocab: int, writes: int) -> None:
    with pytest.raises(ConfigError, match="must not be smaller than keys"):
        draw(settings(keys, vocab), writes=writes, count=1, rng=np.random.default_rng(0))

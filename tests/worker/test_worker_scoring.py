"""Scores come from what the child left only when it can be true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from arch_search.config import Stage
from arch_search.settings import load_config
from arch_search.worker import child
from arch_search.worker.folder import ChildResult, TaskFolder, write_array, write_message
from arch_search.worker.scoring import Questions, read_result, score
from cognition_db.records import Certificate, Outcome

N, T = 4, 24
ANSWERS = np.arange(96).reshape(32, 3) % 16
QUESTIONS = Questions(
    recall_answers=ANSWERS,
    windows=np.zeros((N + 16, T + 1), dtype=np.int64),
    positions=np.array([[0, 3], [3, 23]]),
    vocab=256,
    is_bytes=True,
    floor_nats=0.3,
    step_unit="CPU-seconds",
)
CERTIFICATE = Certificate(outcome="passed", reason="proved", length=24, layers=1, operators=9, seconds=0.1)
RESULT = ChildResult(
    ending="finished",
    curve_steps=(4, 8),
    curve_loss=(5.0, 4.0),
    tokens_seen=768,
    parameter_count=6000,
    step_s=0.01,
    certificate=CERTIFICATE,
    operators=("delta_rule=triton", "fir_mix=chunk"),
)


@pytest.fixture
def folder(tmp_path: Path) -> TaskFolder:
    """A folder whose child did everything right."""
    folder = TaskFolder(tmp_path)
    write_array(folder.recall_answers, ANSWERS)
    nll(2.0)(folder)
    write_array(folder.prefix_nll, np.full(2, 2.0, dtype=np.float32))
    return folder


def test_a_complete_folder_is_scored(folder: TaskFolder) -> None:
    scored = score(RESULT, folder, QUESTIONS)
    values = {one.name: one.value for one in scored.scores}
    assert scored.ending == "finished"
    assert values["recall_accuracy"] == 1.0
    assert values["heldout_loss"] == pytest.approx(2.0)
    assert values["prefix_gap"] == 0.0
    assert values["random_loss"] == pytest.approx(9.0)
    assert values["step_s"] == 0.01


def test_without_the_recall_probe_no_answers_are_read_and_none_are_scored(folder: TaskFolder) -> None:
    probed = score(RESULT, folder, QUESTIONS)
    folder.recall_answers.unlink()
    scored = score(RESULT, folder, replace(QUESTIONS, recall_answers=None))
    assert scored == replace(probed, scores=probed.scores[1:])
    assert probed.scores[0].name == "recall_accuracy"


@pytest.mark.parametrize(
    "stage, vocab, sequences", [("laptop", 256, 8), ("explore", 50_257, 10), ("verify", 50_257, 4)]
)
def test_a_model_is_measured_by_as_many_sequences_as_four_gb_of_logits_allow(
    stage: str, vocab: int, sequences: int
) -> None:
    order = SimpleNamespace(stage=load_config([f"stage={stage}"]).stage, vocab=vocab)
    assert child._measured_at_once(order) == sequences


def test_the_speed_of_a_step_has_the_unit_of_its_clock(folder: TaskFolder) -> None:
    units = [
        score(RESULT, folder, replace(QUESTIONS, step_unit=one)).scores[-1].unit for one in ("CPU-seconds", "seconds")
    ]
    assert units == ["CPU-seconds per step", "seconds per step"]


def test_a_model_that_knows_nothing_is_not_below_the_floor_of_random_tokens(folder: TaskFolder) -> None:
    nll(2.0, noise=np.log(256) - 0.1)(folder)
    assert score(RESULT, folder, QUESTIONS).ending == "finished"


def nll(text: float, noise: float = 9.0) -> Callable[[TaskFolder], None]:
    """Losses of held-out text, and of random tokens; text is far more likely than these."""
    found = np.repeat(np.float32([text, noise]), [N, 16])[:, None].repeat(T, axis=1)
    return lambda folder: write_array(folder.heldout_nll, found)


def shorter_answers(folder: TaskFolder) -> None:
    write_array(folder.recall_answers, ANSWERS[:-1])


def prefix(value: float) -> Callable[[TaskFolder], None]:
    return lambda folder: write_array(folder.prefix_nll, np.full(2, value, dtype=np.float32))


@pytest.mark.parametrize(
    "spoil, ending, words",
    [
        (lambda folder: folder.heldout_nll.unlink(), "crashed", "no complete measurements"),
        (shorter_answers, "crashed", "no complete measurements"),
        (nll(float("nan")), "non_finite", "not finite"),
        (nll(-1.0), "crashed", "outside"),
        (nll(1e9), "crashed", "outside"),
        (nll(0.1), "below_floor", "a quarter of what xz needs"),
        (nll(2.0, noise=5.0), "below_floor", "5 nats on tokens drawn at random"),
        (nll(2.0, noise=0.0), "below_floor", "sees its targets"),
        (prefix(2.01), "below_floor", "sees the future or the length"),
        (prefix(float("inf")), "non_finite", "not finite"),
    ],
)
def test_what_cannot_be_true_is_not_finished(
    folder: TaskFolder, spoil: Callable[[TaskFolder], None], ending: str, words: str
) -> None:
    spoil(folder)
    scored = score(RESULT, folder, QUESTIONS)
    assert scored.ending == ending
    assert words in scored.cause


def test_a_training_loss_below_the_floor_counts_even_with_an_honest_looking_evaluation(folder: TaskFolder) -> None:
    assert score(replace(RESULT, curve_loss=(5.0, 0.05)), folder, QUESTIONS).ending == "below_floor"


@pytest.mark.parametrize("outcome, ending", [("failed", "below_floor"), ("unknown", "finished")])
def test_trained_weights_that_see_the_future_disqualify_and_a_missing_proof_does_not(
    folder: TaskFolder, outcome: Outcome, ending: str
) -> None:
    certificate = replace(CERTIFICATE, outcome=outcome, reason="layer 1: sees the future")
    scored = score(replace(RESULT, certificate=certificate), folder, QUESTIONS)
    assert scored.ending == ending
    assert ("layer 1: sees the future" in scored.cause) == (outcome == "failed")


@pytest.mark.parametrize(
    "change",
    [
        {"curve_steps": (8, 4)},
        {"curve_steps": (4,)},
        {"curve_steps": (4, 9)},
        {"curve_steps": (), "curve_loss": ()},
        {"curve_loss": (5.0, float("nan"))},
        {"tokens_seen": 769},
        {"parameter_count": -1},
        {"resumed_from_step": 99},
        {"step_s": float("inf")},
        {"certificate": None},
        {"certificate": replace(CERTIFICATE, length=25)},
        {"certificate": replace(CERTIFICATE, length=0)},
        {"certificate": replace(CERTIFICATE, layers=2)},
        {"certificate": replace(CERTIFICATE, operators=-1)},
        {"certificate": replace(CERTIFICATE, seconds=float("nan"))},
        {"operators": ("delta_rule=triton; and more",)},
        {"operators": ("delta_rule=triton",) * 21},
        {"ending": "crashed"},
    ],
)
def test_a_result_that_contradicts_the_order_is_refused(
    folder: TaskFolder, change: dict[str, object], tiny_stage: Stage
) -> None:
    write_message(folder.result, RESULT)
    assert read_result(folder, tiny_stage) == RESULT
    write_message(folder.result, replace(RESULT, **change))  # type: ignore[arg-type]
    assert read_result(folder, tiny_stage) is None

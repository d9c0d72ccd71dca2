"""The pairs that measure the Judge: that the better one is better is itself measured here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from arch_search.agents.known_programs import KnownPair, anchors, known_pairs
from arch_search.domains import domain_named
from arch_search.evaluation import measure, recall
from arch_search.models.language_model import LanguageModel
from arch_search.models.loading import build_mixer, load_mixer_class
from arch_search.settings import load_config
from arch_search.training.trainer import IGNORED, Recipe, train

DOMAIN = domain_named("linear_attention")
PAIRS = known_pairs(DOMAIN)
EVERY_PAIR = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
# fewer keys and steps than the demo's: nothing finer than a planted defect is to be seen
PROBE = replace(load_config(["campaign=demo"]).stage.recall, steps=150, keys=4, writes=12)


def test_there_are_at_least_six_pairs_of_different_programs() -> None:
    texts = {text for pair in PAIRS for text in (pair.better, pair.worse)}
    assert len(PAIRS) >= 6
    assert len({pair.name for pair in PAIRS}) == len(PAIRS)
    assert len(texts) == 2 * len(PAIRS)


def test_a_domain_without_known_programs_has_neither_pairs_nor_anchors() -> None:
    other = replace(DOMAIN, known_programs=None)
    assert known_pairs(other) == ()
    assert anchors(other) == ()


def test_the_marks_of_the_anchors_are_on_the_scale_and_rank_them_as_published() -> None:
    marks = [mark for one in anchors(DOMAIN) for mark in (one.effectiveness, one.novelty, one.complexity)]
    assert all(1 <= mark <= 10 for mark in marks)
    effects = {one.name: one.effectiveness for one in anchors(DOMAIN)}
    assert effects["linear attention"] < effects["DeltaNet, the reference"] < effects["gated DeltaNet"]


@pytest.mark.slow
@EVERY_PAIR
def test_the_better_one_recalls_better(pair: KnownPair, tmp_path: Path) -> None:
    better, worse = (recalled(text, tmp_path / name) for name, text in (("b", pair.better), ("w", pair.worse)))
    assert better > worse + 0.15


def recalled(program: str, folder: Path) -> float:
    """Recall accuracy after a short training; 0 where its loss was not finite."""
    folder.mkdir()
    file = folder / "program.py"
    file.write_text(program, encoding="utf-8")
    mixer = load_mixer_class(file, "DeltaNet")
    torch.manual_seed(0)
    model = LanguageModel(
        lambda layer: build_mixer(mixer, d_model=PROBE.d_model, n_heads=PROBE.n_heads, layer_idx=layer),
        vocab=PROBE.vocab, d_model=PROBE.d_model, n_layers=PROBE.n_layers, feed_forward=0,
    )  # fmt: skip
    recipe = Recipe(
        steps=PROBE.steps, lr=PROBE.lr, warmup_steps=15, weight_decay=0.0, clip_norm=1.0, seed=0, checkpoint_every_s=900
    )

    def next_batch(step: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        drawn = recall.training_set(PROBE, step, rng)
        targets = torch.full(drawn.inputs.shape, IGNORED)
        targets[:, drawn.asked] = torch.from_numpy(drawn.answers)
        return torch.from_numpy(drawn.inputs), targets

    training = train(
        model, next_batch, recipe=recipe, checkpoint_path=folder / "checkpoint", should_stop=lambda step: False
    )
    if training.ended != "finished":
        return 0.0
    held_out = recall.heldout_set(PROBE, np.random.default_rng(1))
    found = measure.answers(model, held_out.inputs, held_out.asked, batch_size=PROBE.batch_size)
    return recall.accuracy(found, held_out.answers).value

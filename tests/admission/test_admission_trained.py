"""The certificate on trained weights: what training opened is found, what it left shut is proved again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from arch_search.admission.certificate.certify import check_certificate
from arch_search.admission.certificate.trained import certify_trained
from arch_search.admission.subject import Subject
from arch_search.models.loading import load_mixer_class

WIDTH, HEADS, T = 16, 2, 24
# proved as long as no weight has grown: the branch that reads ahead is not taken
OPENED_BY_TRAINING = """
import torch
from torch import nn


class DeltaNet(nn.Module):
    def __init__(self, hidden_size, **kwargs):
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        y = self.inner(x.cumsum(dim=1))
        if self.gate.item() > 0.5:
            y = y + self.gate * x.roll(-1, dims=1)
        return y
"""


@pytest.fixture
def mixer(tmp_path: Path) -> type[nn.Module]:
    (tmp_path / "program.py").write_text(OPENED_BY_TRAINING)
    return load_mixer_class(tmp_path / "program.py", "DeltaNet")


def test_a_leak_that_fresh_weights_keep_shut_is_refuted_once_training_has_opened_it(mixer: type[nn.Module]) -> None:
    (before,) = check_certificate(Subject(mixer=mixer, d_model=WIDTH, n_heads=HEADS), [T], 1e-9)
    assert before.outcome == "passed", before.reason
    shut, opened = mixer(WIDTH), mixer(WIDTH)
    with torch.no_grad():
        opened.gate.fill_(0.9)
    found = certify_trained([shut, opened], d_model=WIDTH, n_heads=HEADS, seq_len=T)
    assert found.outcome == "failed"
    assert "layer 1: sees the future" in found.reason
    assert certify_trained([shut, shut], d_model=WIDTH, n_heads=HEADS, seq_len=T).outcome == "passed"


def test_a_proof_names_length_layers_operators_and_seconds(mixer: type[nn.Module]) -> None:
    found = certify_trained([mixer(WIDTH)], d_model=WIDTH, n_heads=HEADS, seq_len=T)
    assert (found.outcome, found.length, found.layers) == ("passed", T, 1)
    assert found.operators >= 3
    assert found.seconds > 0
    assert f"T = {T}" in found.reason


def test_the_model_is_as_before(mixer: type[nn.Module]) -> None:
    module = mixer(WIDTH).eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    certify_trained([module], d_model=WIDTH, n_heads=HEADS, seq_len=T)
    assert not module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_a_long_sequence_is_cut_to_what_memory_allows(mixer: type[nn.Module]) -> None:
    assert certify_trained([mixer(4096)], d_model=4096, n_heads=HEADS, seq_len=4096).length == 64


def test_what_the_tracker_can_not_follow_is_unknown_with_the_reason() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError("cache")

    found = certify_trained([Broken()], d_model=WIDTH, n_heads=HEADS, seq_len=T)
    assert found.outcome == "unknown"
    assert "KeyError: 'cache'" in found.reason

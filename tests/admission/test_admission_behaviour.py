"""Fingerprints of behaviour: blind to names, order and scale, sharp for what is computed."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

from arch_search.admission.behaviour import fingerprint
from arch_search.admission.subject import Subject
from arch_search.models.loading import load_mixer_class

PROGRAM = """
import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.q = nn.Linear(d_model, d_model, bias=False)
        self.k = nn.Linear(d_model, d_model, bias=False)
        self.gain = nn.Parameter(torch.zeros(d_model))

    def forward(self, x):
        return (torch.sigmoid(self.q(x)) * self.k(x)).cumsum(1) * self.gain
"""


def taken(folder: Path, *changes: tuple[str, str]) -> tuple[float, ...]:
    text = PROGRAM
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    program = folder / f"p{abs(hash(text))}.py"
    program.write_text(text)
    return fingerprint(Subject(mixer=load_mixer_class(program, None), d_model=32, n_heads=2))


def test_names_the_order_of_definition_and_initial_weights_do_not_matter(tmp_path: Path) -> None:
    line = "        self.{} = nn.Linear(d_model, d_model, bias=False)\n"
    swapped = (line.format("q") + line.format("k"), line.format("b") + line.format("a"))
    other = taken(tmp_path, swapped, ("self.q(x)", "self.a(x)"), ("self.k(x)", "self.b(x)"), ("zeros", "ones"))

    assert math.dist(taken(tmp_path), other) < 1e-6


def test_a_constant_factor_does_not_matter(tmp_path: Path) -> None:
    assert math.dist(taken(tmp_path), taken(tmp_path, ("* self.gain", "* self.gain * 0.37"))) < 1e-6


def test_another_computation_gives_another_fingerprint(tmp_path: Path) -> None:
    base = taken(tmp_path)

    assert math.dist(base, taken(tmp_path, ("sigmoid", "tanh"))) > 0.05
    assert math.dist(base, taken(tmp_path, (".cumsum(1)", ".cumsum(1).roll(1, -1)"))) > 0.05
    assert math.dist(base, taken(tmp_path, ("* self.gain", "* self.gain + 0.1 * x"))) > 1e-3


def test_an_output_of_zero_or_without_bounds_has_no_fingerprint(tmp_path: Path) -> None:
    assert taken(tmp_path, ("* self.gain", "* self.gain * 0")) == ()
    assert taken(tmp_path, ("* self.gain", "/ (self.gain * 0)")) == ()


def test_another_process_takes_the_same_fingerprint(tmp_path: Path) -> None:
    here = taken(tmp_path)
    script = f"""
from pathlib import Path
from arch_search.admission.behaviour import fingerprint
from arch_search.admission.subject import Subject
from arch_search.models.loading import load_mixer_class
program = next(Path({str(tmp_path)!r}).glob("p*.py"))
print(*fingerprint(Subject(mixer=load_mixer_class(program, None), d_model=32, n_heads=2)))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert tuple(map(float, ran.stdout.split())) == here

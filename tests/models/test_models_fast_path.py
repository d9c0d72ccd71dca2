"""Functions of a program that compute a delta rule are found by their numbers and replaced, and no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from arch_search.models import gallery
from arch_search.models.fast_path import Form, replaced, replacements, verified
from arch_search.models.loading import build_mixer, load_mixer_class
from arch_search.proposals.mutation import mutate
from arch_search.proposals.registry import BUILT_IN
from cognition_db.records import Candidate, candidate_id
from kernels.dispatch import recorded_choices

ROOT = Path(__file__).parents[2]
SEED = ROOT / "arch_search/domains/linear_attention/seed_program.py"
GALLERY = sorted(Path(str(gallery.__file__)).parent.glob("[a-z]*.py"))
PUBLISHED = ROOT / "tests/admission/published"
WITHOUT_DELTA_RULE = {"channel_recurrence_shift", "gated_linear_family", "retention_rotary_glu"}
HEADER = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"

# a plain delta rule in the layout [B, T, H, d]; `{...}` are places where it can be spoilt
PLAIN = """
def memory(query, key, value, beta{extra}):
    B, T, H, d = key.shape
    state, outputs = query.new_zeros(B, H, d, value.shape[-1]), []
    for t in range(T):
        {first}
        stored = torch.einsum("bhk,bhkv->bhv", key[:, t], state)
        change = beta[:, t, :, None] * (value[:, t] - stored)
        state = state + key[:, t, :, :, None] * change[:, :, None, :]
        outputs.append(torch.einsum("bhk,bhkv->bhv", {read}[:, t], state))
    return torch.stack(outputs, 1)
"""
MIXER = """
class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, **kwargs):
        super().__init__()
        self.heads, self.qkv = num_heads, nn.Linear(hidden_size, 3 * hidden_size + num_heads)

    def forward(self, x, **kwargs):
        q, k, v, beta = self.qkv(x).split([x.shape[2]] * 3 + [self.heads], -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, v))
        o = memory(q, F.normalize(k, dim=-1), v, beta.sigmoid(){more})
        return {output}
"""


def text(
    *, extra: str = "", first: str = "pass", read: str = "query", more: str = "", output: str = "o.flatten(2)"
) -> str:
    function = PLAIN.format(extra=extra, first=first, read=read)
    return HEADER + function + MIXER.format(more=more, output=output)


def loaded(folder: Path, program: str) -> tuple[ModuleType, nn.Module]:
    path = folder / "program.py"
    path.write_text(program)
    mixer = load_mixer_class(path, None, default_class="DeltaNet")
    torch.manual_seed(0)
    return sys.modules[mixer.__module__], build_mixer(mixer, d_model=12, n_heads=2, layer_idx=0)


def test_a_delta_rule_as_a_model_writes_it_is_found_with_its_layout(tmp_path: Path) -> None:
    (found,) = replacements(loaded(tmp_path, text())[0])
    assert (found.function, found.operator) == ("memory", "delta_rule")
    assert found.form == Form(heads_first=False, scalar_axis=False, unit=False, scaled=False, log_decay=None)


@pytest.mark.parametrize(
    "spoilt",
    [
        text(read="value"),
        text(read="query.detach()"),
        text(first="state = state.detach()"),
        text(first="state = state * 0.999999"),
        text(first="state = state * (t != 64)"),
        text(first="state = state.flip(1)"),
        text(extra=", mask"),
    ],
    ids=["other read", "no gradient of q", "no gradient in time", "slow decay", "forgets at 64", "heads", "more input"],
)
def test_what_differs_in_output_or_gradient_stays_as_it_is_written(tmp_path: Path, spoilt: str) -> None:
    assert replacements(loaded(tmp_path, spoilt)[0]) == ()


@pytest.mark.parametrize("decay, log_decay", [("g.exp()", True), ("g", False)])
def test_a_decay_is_read_as_logarithm_or_as_factor(tmp_path: Path, decay: str, log_decay: bool) -> None:
    first = f"state = state * {decay}[:, t, :, None, None]"
    (found,) = replacements(loaded(tmp_path, text(extra=", g", first=first))[0])
    assert (found.operator, found.form.log_decay) == ("gated_delta_rule", log_decay)


def test_the_program_calls_the_operator_inside_the_block_only(tmp_path: Path) -> None:
    program, mixer = loaded(tmp_path, text())
    found = replacements(program)
    x = torch.randn(2, 40, 12)
    written = mixer(x)
    with replaced(program, found), recorded_choices() as choices:
        by_operator = mixer(x)
    with recorded_choices() as afterwards:
        mixer(x)
    torch.testing.assert_close(by_operator, written, atol=1e-5, rtol=1e-5)
    assert [choice.operator for choice in choices] == ["delta_rule"]
    assert afterwards == []
    with pytest.raises(RuntimeError, match="inside"), replaced(program, found):
        raise RuntimeError("inside")
    assert program.memory.__code__.co_filename.endswith("program.py")


@pytest.mark.parametrize("more, used", [(", 16", True), (", mask=x[..., 0]", False), (", half=True", False)])
def test_a_call_that_says_more_than_a_chunk_size_goes_to_the_written_function(
    tmp_path: Path, more: str, used: bool
) -> None:
    first = "state = (0.5 if half else 1) * (state if mask is None else state * mask[:, t, None, None, None])"
    program, mixer = loaded(tmp_path, text(extra=", chunk=32, mask=None, half=False", first=first, more=more))
    x = torch.randn(2, 9, 12)
    written = mixer(x)
    with replaced(program, replacements(program)), recorded_choices() as choices:
        torch.testing.assert_close(mixer(x), written, atol=1e-5, rtol=1e-5)
    assert bool(choices) is used


def test_a_mixer_in_which_the_operator_is_not_the_same_keeps_its_own_function(tmp_path: Path) -> None:
    # agrees wherever the function is tried alone: keys of unit length times 0.9; here keys are a thousand times longer
    first = "state = state * (key.abs().amax() < 100)"
    good, bad = text(first=first), text(first=first).replace("F.normalize(k, dim=-1)", "1000 * F.normalize(k, dim=-1)")
    for program_text, kept in ((good, 1), (bad, 0)):
        program, mixer = loaded(tmp_path, program_text)
        found = replacements(program)
        assert len(found) == 1
        assert len(verified(program, found, mixer, d_model=12)) == kept


def test_a_mixer_that_needs_the_last_state_keeps_its_own_function(tmp_path: Path) -> None:
    with_state = text(output="o[0].flatten(2) + o[1].sum()").replace(
        "torch.stack(outputs, 1)", "torch.stack(outputs, 1), state"
    )
    program, mixer = loaded(tmp_path, with_state)
    found = replacements(program)
    assert len(found) == 1
    assert verified(program, found, mixer, d_model=12) == ()


def test_neither_the_random_numbers_nor_the_weights_of_the_task_are_touched(tmp_path: Path) -> None:
    program, mixer = loaded(tmp_path, text(output="F.dropout(o.flatten(2), 0.5, self.training)"))
    before = {name: one.clone() for name, one in mixer.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert len(verified(program, replacements(program), mixer, d_model=12)) == 1
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one, before[name]) for name, one in mixer.state_dict().items())
    assert all(one.grad is None for one in mixer.parameters())


@pytest.mark.parametrize("path", [SEED, *GALLERY], ids=lambda path: path.stem)
def test_shipped_programs_run_on_the_operators(path: Path) -> None:
    mixer = load_mixer_class(path, None, default_class="DeltaNet")
    program = sys.modules[mixer.__module__]
    found = replacements(program)
    all_three = {"delta_rule", "causal_conv", "fir_mix"}
    # a memory with retention is no operator
    other = {"seed_program": {"gated_delta_rule"}, "fusion_gated_fir_net": all_three - {"delta_rule"}}
    expected = other.get(path.stem, all_three)
    assert {one.operator for one in found} == expected
    built = build_mixer(mixer, d_model=32, n_heads=2, layer_idx=0)
    assert verified(program, found, built, d_model=32) == found


@pytest.mark.parametrize(
    "old, new, left",
    [
        ("taps.unsqueeze(1), groups", "taps.flip(1).unsqueeze(1), groups", {"delta_rule"}),
        ("scale, 1e-5)", "scale, 1e-6)", {"delta_rule", "causal_conv"}),
        ("for taps in filters), *paths, v]", "for taps in filters), v, *paths]", {"delta_rule", "causal_conv"}),
        (
            "mixed = weights[..., :1] * first",
            "mixed = weights[..., :1].detach() * first",
            {"delta_rule", "causal_conv"},
        ),
    ],
    ids=["taps in the other order", "another epsilon", "paths in another order", "no gradient of a weight"],
)
def test_a_filter_or_a_mixture_of_another_kind_stays(tmp_path: Path, old: str, new: str, left: set[str]) -> None:
    hier = next(path for path in GALLERY if path.stem == "hier_gate_net").read_text()
    assert old in hier
    assert {one.operator for one in replacements(loaded(tmp_path, hier.replace(old, new))[0])} == left


def test_every_one_of_ten_random_mutants_of_the_reference_runs_on_the_operator(tmp_path: Path) -> None:
    text = SEED.read_text()
    reference = Candidate(
        id=candidate_id(text), name="deltanet", generation=0, slot=0, arm="baseline", rung="copy", parents=(),
        motivation="", program=text, class_name="DeltaNet", parameter_count=0,
    )  # fmt: skip
    mutants = {mutate(reference, np.random.default_rng(number), BUILT_IN).program for number in range(10)}
    assert len(mutants) > 7
    for mutant in sorted(mutants):
        program, mixer = loaded(tmp_path, mutant)
        found = replacements(program)
        assert "gated_delta_rule" in {one.operator for one in found}
        assert verified(program, found, mixer, d_model=12) == found


def run_on(files: list[Path]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/models/programs/run_fast_path.py"), *map(str, files)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    rows = map(json.loads, done.stdout.splitlines())
    return {row["program"]: row for row in rows}


def test_the_delta_rule_of_every_program_in_the_published_form_is_found_and_kept() -> None:
    rows = run_on(sorted(PUBLISHED.glob("*.py")))
    assert {name for name, row in rows.items() if not row["found"]} == WITHOUT_DELTA_RULE
    assert {name for name, row in rows.items() if row["kept"] < len(row["found"])} == set()

"""Programs on the operators of kernels/: what is recognised computes the same, what differs stays as it was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from arch_search.domains import linear_attention
from arch_search.models import gallery
from arch_search.models.fast_path import FastProgram, Swap, fast_program
from arch_search.models.loading import build_mixer, load_mixer_class, mix
from arch_search.proposals.mutation import mutate
from cognition_db.records import Candidate, candidate_id

FILES = sorted(Path(str(gallery.__file__)).parent.glob("[a-z]*.py"))
SEED_PROGRAM = Path(linear_attention.__file__).parent / "seed_program.py"
DELTA, FILTER = Swap(function="delta_rule", operator="delta_rule"), Swap(function="causal_fir", operator="causal_conv")
GATED = Swap(function="gated_delta_rule", operator="gated_delta_rule")
HIER = next(path for path in FILES if path.stem == "hier_gate_net").read_text()

TOKEN_LOOP = """
def memory({arguments}, chunk_size: int = 32):
    {taken}
    state, outputs = torch.zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3], dtype=q.dtype), []
    for t in range(q.shape[1]):
        state = state * {decay}
        new = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhk,bhkv->bhv", k[:, t], state))
        state = state + k[:, t, :, :, None] * new[:, :, None]
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    output = torch.stack(outputs, 1)
    {given}


class Mixer(nn.Module):
    def __init__(self, hidden_size=32, num_heads=2, **kwargs):
        super().__init__()
        self.width = nn.Linear(hidden_size, 3 * hidden_size)
        self.beta = nn.Linear(hidden_size, 2 * num_heads)
        self.num_heads = num_heads

    def forward(self, x, **kwargs):
        q, k, v = (y.view(*x.shape[:2], self.num_heads, -1) for y in self.width(x).chunk(3, -1))
        beta, g = self.beta(x).sigmoid().chunk(2, -1)
        {call}
        return result.flatten(-2)
"""


def program_file(folder: Path, text: str) -> Path:
    file = folder / "program.py"
    file.write_text(text)
    return file


def fast(file: Path) -> FastProgram:
    return fast_program(file, None, d_model=32, n_heads=2, default_class="DeltaNet")


@pytest.mark.parametrize("path", [SEED_PROGRAM, *FILES], ids=lambda path: path.stem)
def test_shipped_programs_give_equal_outputs_and_gradients_on_the_kernels(path: Path) -> None:
    found = fast(path)
    expected = {"seed_program": (GATED,), "fusion_gated_fir_net": (FILTER,)}.get(path.stem, (DELTA, FILTER))
    assert (found.path, found.swaps, found.reason) == ("kernels", expected, "")

    torch.manual_seed(0)
    written = load_mixer_class(path, None, default_class="DeltaNet")
    modules = [build_mixer(cls, d_model=32, n_heads=2, layer_idx=0).double() for cls in (written, found.program)]
    modules[1].load_state_dict(modules[0].state_dict())
    x = torch.randn(2, 100, 32, dtype=torch.float64)
    outputs, gradients = [], []
    for module in modules:
        inputs = x.clone().requires_grad_()
        outputs.append(mix(module, inputs))
        gradients.append(torch.autograd.grad(outputs[-1].sin().sum(), [inputs, *module.parameters()]))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-10)
    # they are two programs: had both the same functions, equality would say nothing
    names = {swap.function for swap in expected}
    assert all(modules[0].forward.__globals__[name] is not modules[1].forward.__globals__[name] for name in names)


FORMS = {
    "as the published programs, with q and k normalised inside": {
        "arguments": "q, k, v, beta",
        "taken": "q, k, v, beta = (x.transpose(1, 2) for x in (q, k, v, beta)); q, k = (x * torch.rsqrt("
        "x.square().sum(-1, keepdim=True) + 1e-6) for x in (q, k))",
        "decay": "1.0",
        "given": "return output.transpose(1, 2), state",
        "call": "result = memory(*(y.transpose(1, 2) for y in (q, k, v, beta)), 16)[0].transpose(1, 2)",
    },
    "gated, with an axis for scalars": {
        "arguments": "q, k, v, beta, g",
        "taken": "beta, g = beta.squeeze(-1), g.squeeze(-1)",
        "decay": "g[:, t, :, None, None].exp()",
        "given": "return output",
        "call": "result = memory(q / 9, k / 9, v, g=-g.unsqueeze(-1), beta=beta.unsqueeze(-1), chunk_size=64)",
    },
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_function_is_recognised_by_what_it_computes_in_whatever_form(tmp_path: Path, form: dict[str, str]) -> None:
    found = fast(program_file(tmp_path, "import torch\nfrom torch import nn\n" + TOKEN_LOOP.format(**form)))
    operator = "gated_delta_rule" if "g" in form["arguments"].split(", ") else "delta_rule"
    assert (found.path, found.swaps) == ("kernels", (Swap(function="memory", operator=operator),))
    x = torch.randn(1, 5, 32)
    assert mix(build_mixer(found.program, d_model=32, n_heads=2, layer_idx=0), x).isfinite().all()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("within = (q_ @ k_.mT).tril()", "within = q_ @ k_.mT"),
        ("state = state + k_[", "state = 0.9 * state + k_["),
        ("(kb @ k_.mT).tril(-1)", "(k_ @ k_.mT).tril(-1)"),
        ("q, k, v, beta.unsqueeze(-1))", "q, k, v.detach(), beta.unsqueeze(-1))"),
        ("[:, :, :T].transpose(1, 2).to(v.dtype)", "[:, :, :T].transpose(1, 2).to(v.dtype) + 1e-6"),
    ],
    ids=["not causal", "forgets", "another system", "another gradient", "a little off"],
)
def test_a_function_that_computes_something_else_stays(tmp_path: Path, old: str, new: str) -> None:
    assert old in HIER
    assert fast(program_file(tmp_path, HIER.replace(old, new))).swaps == (FILTER,)


def test_a_filter_with_its_taps_in_the_other_order_stays(tmp_path: Path) -> None:
    text = HIER.replace("taps.unsqueeze(1), groups", "taps.flip(1).unsqueeze(1), groups")
    assert fast(program_file(tmp_path, text)).swaps == (DELTA,)


def test_a_module_that_differs_on_the_operators_stays_as_it_was_written_and_says_by_how_much(tmp_path: Path) -> None:
    # equal on random values of ordinary size, not on those that the module passes
    text = HIER.replace("    kb = k_ * beta_\n", "    v_ = v_.clamp(-50, 50)\n    kb = k_ * beta_\n")
    text = text.replace("v = self.heads(value)", "v = 1000 * self.heads(value)")
    found = fast(program_file(tmp_path, text))
    assert (found.path, found.swaps) == ("as_written", ())
    assert "differs by" in found.reason
    assert found.program(hidden_size=32, num_heads=2)(torch.randn(1, 3, 32)).isfinite().all()


def test_a_call_that_the_operator_does_not_take_leaves_the_program_as_it_was_written(tmp_path: Path) -> None:
    text = HIER.replace("B, T, H, d = q.shape", "q = torch.stack(list(q))\n    B, T, H, d = q.shape")
    text = text.replace("delta_rule(unit(self.heads(q)),", "delta_rule(unit(self.heads(q)).unbind(),")
    found = fast(program_file(tmp_path, text))
    assert (found.path, found.reason) == ("as_written", "the module fails on the operators: AttributeError")


def test_a_program_without_such_functions_stays(tmp_path: Path) -> None:
    text = "from torch import nn\n\n\nclass Mixer(nn.Linear):\n"
    text += "    def __init__(self, hidden_size=8, **kwargs):\n        super().__init__(hidden_size, hidden_size)\n"
    found = fast(program_file(tmp_path, text))
    assert (found.path, found.reason) == ("as_written", "no function of it is an operator")


def test_the_comparison_leaves_the_random_generator_as_it_was() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fast(FILES[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_every_one_of_ten_random_mutants_of_the_reference_runs_on_the_kernels(tmp_path: Path) -> None:
    text = SEED_PROGRAM.read_text()
    reference = Candidate(
        id=candidate_id(text), name="deltanet", generation=0, slot=0, arm="baseline", rung="copy", parents=(),
        motivation="", program=text, class_name="DeltaNet", parameter_count=0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    mutants = {mutate(reference, rng).program for _ in range(10)}
    assert len(mutants) > 7
    found = [fast(program_file(tmp_path, mutant)) for mutant in sorted(mutants)]
    assert {one.path for one in found} == {"kernels"}, [one.reason for one in found]
    assert all(GATED in one.swaps for one in found)

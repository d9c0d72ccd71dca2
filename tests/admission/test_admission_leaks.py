"""Planted leaks, cheats and faults: each is refused, and by the check that is meant to see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from arch_search.admission.child import examine
from arch_search.admission.request import ChildReport, Request
from arch_search.settings import load_config
from cognition_db.records import Verdict

PROGRAM = """
import math
import torch
import torch.nn.functional as F
from torch import nn

CALLS = [0]


class DeltaNet(nn.Module):
    def __init__(self, d_model=32, num_heads=2, **kwargs):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(d_model, d_model, bias=False) for _ in range(3))
        {init}

    def forward(self, x):
        B, T, D = x.shape
        count = torch.arange(1, T + 1, dtype=x.dtype)[:, None]
        y = torch.cumsum(torch.sigmoid(self.q(x)) * self.k(x) * self.v(x), 1) / count
        {body}
        return y
"""

# name: (check that refuses, lines of __init__, lines of forward)
FAULTS = {
    "unmasked attention": ("causality", "", "y = torch.softmax(self.q(x) @ self.k(x).mT, -1) @ self.v(x)"),
    "softmax over time": ("causality", "", "y = y * torch.softmax(self.q(x), 1)"),
    "chunk statistics": (
        "causality",
        "",
        "p = F.pad(x, (0, 0, 0, -T % 16)).view(B, -1, 16, D)\n"
        "y = y + (p - p.mean(2, keepdim=True)).view(B, -1, D)[:, :T]",
    ),
    "off by one": ("causality", "", "y = y + 1e-3 * F.pad(x, (0, 0, 0, 1))[:, 1:]"),
    "faint flip": ("causality", "", "y = y + 1e-7 * x.flip(1)"),
    "batch norm over time": (
        "causality",
        "",
        "y = F.batch_norm(y.mT, None, None, training=True).mT if self.training and B * T > 1 else y",
    ),
    "detached mean": ("causality", "", "y = y + x.detach().mean(1, keepdim=True)"),
    "argmax": ("causality", "", "y = y + (x.sum(-1).argmax(1).to(x.dtype) / T)[:, None, None]"),
    "median": ("causality", "", "y = y - 0.1 * x.detach().median(1, keepdim=True).values"),
    "chunk size from data": (
        "causality",
        "",
        "c = 8 if x.abs().max() < 20 else 16\ny = y + 0.1 * F.pad(torch.tanh(x), (0, 0, c, 0))[:, :T] * c",
    ),
    "rare trigger": ("causality", "", "y = y + (x.abs().amax(1, keepdim=True) > 20).to(x.dtype)"),
    "zero branch": (
        "causality",
        "self.gate = nn.Parameter(torch.zeros(d_model))",
        "y = y + self.gate * x.mean(1, keepdim=True)",
    ),
    "only with gradients": ("causality", "", "y = y + x.mean(1, keepdim=True) if torch.is_grad_enabled() else y"),
    "only in training": ("causality", "", "y = y + x.mean(1, keepdim=True) if self.training else y"),
    "only in use": ("causality", "", "y = y if self.training else y + x.mean(1, keepdim=True)"),
    "only at multiples of 256": ("causality", "", "y = y + x.mean(1, keepdim=True) if T % 256 == 0 else y"),
    "equal tokens ahead": (
        "causality",
        "",
        "same = (x[:, :, None] - x[:, None]).abs().amax(-1) < 1e-12\n"
        "y = y + same.to(x.dtype).triu(1).sum(-1, keepdim=True)",
    ),
    "circular convolution": (
        "causality",
        "self.decay = nn.Parameter(torch.ones(d_model))",
        "f = torch.exp(-F.softplus(self.decay) * (count - 1))\n"
        "y = torch.fft.irfft(torch.fft.rfft(x, dim=1) * torch.fft.rfft(f, dim=0), n=T, dim=1)",
    ),
    "mean over the batch": ("batch_rows", "", "y = y + x.mean(0, keepdim=True)"),
    "first row for all": ("batch_rows", "", "y = y + 0.01 * x[:1]"),
    "rows before": ("batch_rows", "", "y = y + torch.cumsum(x, 0) - x"),
    "memory of the last call": (
        "state_between_calls",
        "self.last = 0.0",
        "y = y + self.last\nself.last = float(x.detach().mean())",
    ),
    "running mean in a buffer": (
        "state_between_calls",
        "self.register_buffer('mean', torch.zeros(d_model))",
        "y = y - self.mean\nself.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 1))",
    ),
    "acts after 500 calls": (
        "state_between_calls",
        "self.calls = 0",
        "self.calls += 1\ny = y + x.mean(1, keepdim=True) if self.calls > 500 else y",
    ),
    "memory in a global": ("state_between_calls", "", "CALLS[0] += 1\ny = y + CALLS[0]"),
    "weights in a list": (
        "hidden_parameters",
        "self.ws = [nn.Parameter(torch.randn(d_model, d_model))]",
        "y = y @ self.ws[0]",
    ),
    "modules in a dict": (
        "hidden_parameters",
        "self.parts = {'out': nn.Linear(d_model, d_model)}",
        "y = self.parts['out'](y)",
    ),
    "trainable tensor": (
        "hidden_parameters",
        "self.w = torch.randn(d_model, requires_grad=True)",
        "y = y * self.w",
    ),
    "weights in a closure": (
        "hidden_parameters",
        "w = nn.Parameter(torch.randn(d_model)); self.act = lambda z: z * w",
        "y = self.act(y)",
    ),
    "random projection not saved": (
        "hidden_parameters",
        "self.projection = torch.randn(d_model, d_model)",
        "y = y @ self.projection.to(y.dtype)",
    ),
    "logarithm of anything": ("outputs", "", "y = torch.log(x)"),
    "wrong shape": ("outputs", "", "y = y[..., : D // 2]"),
    "returns nothing": ("outputs", "", "return None"),
    "needs multiples of 32": ("outputs", "", "y = y.view(B, T // 32, 32, D).reshape(B, T, D)"),
    "fails for long inputs": ("outputs", "", "assert T < 200, 'sequence too long'"),
    "infinite gradient": ("gradients", "", "y = torch.where(y > 9e9, y, torch.sqrt(y - y.detach()))"),
    "prints without end": ("output_volume", "", "print('x' * 10_000)"),
    "leaves": ("outputs", "", "raise SystemExit(0)"),
    "quadratic elementwise": (
        "cost",
        "",
        "y = ((x[:, :, None, :1] * x[:, None, :, :1])[..., 0].tril() @ x) / count",
    ),
    "causal softmax attention": (
        "cost",
        "",
        "y = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), is_causal=True)",
    ),
    "sum over every prefix": ("cost", "", "y = torch.stack([x[:, : t + 1].mean(1) for t in range(T)], 1)"),
}

# seen by checks that come after a second or more of others
SLOW = {name for name, (check, _, _) in FAULTS.items() if check in ("batch_rows", "cost")} - {"mean over the batch"}


def request(*, exempt_cost: bool = False) -> Request:
    config = load_config([])
    return Request(
        class_name=None,
        settings=config.admission,
        stage=config.stage,
        target_parameters=None,
        exempt_cost=exempt_cost,
        vocab=256,
    )


def examined(folder: Path, *, init: str = "", body: str = "") -> ChildReport:
    indent = "\n        "
    text = PROGRAM.format(init=indent.join(init.splitlines()), body=indent.join(body.splitlines()))
    program = folder / f"{folder.name}.py"
    program.write_text(text)
    return examine(program, request(), report_to=lambda report: None)


def refusals(report: ChildReport) -> list[Verdict]:
    return [verdict for verdict in report.verdicts if verdict.refuses]


def test_the_program_without_a_fault_is_admitted(tmp_path: Path) -> None:
    assert refusals(examined(tmp_path)) == []


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in FAULTS])
def test_a_planted_fault_is_refused_by_the_check_meant_for_it(tmp_path: Path, name: str) -> None:
    check, init, body = FAULTS[name]

    refused = refusals(examined(tmp_path, init=init, body=body))

    assert [verdict.check for verdict in refused] == [check]


def test_a_witness_names_the_input_that_moves_an_earlier_output(tmp_path: Path) -> None:
    (refused,) = refusals(examined(tmp_path, body="y = y + 1e-3 * F.pad(x, (0, 0, 0, 5))[:, 5:]"))

    evidence = refused.evidence
    assert evidence["input_position"] == evidence["output_position"] + 5
    assert 1e-5 < evidence["amount"] < 1e-2


def test_an_error_of_the_program_is_told_with_its_line(tmp_path: Path) -> None:
    (refused,) = refusals(examined(tmp_path, body="y = y @ self.q.weight[:3]"))

    assert refused.reason.startswith("RuntimeError: ")
    assert "y = y @ self.q.weight[:3]" in refused.reason
    assert "line 20" in refused.reason


def test_reading_the_length_is_marked_and_not_refused(tmp_path: Path) -> None:
    report = examined(tmp_path, body="y = y * math.log(T + 1)")

    marked = next(verdict for verdict in report.verdicts if verdict.check == "length_dependence")
    assert (marked.outcome, refusals(report)) == ("failed", [])


def test_parameters_without_gradient_are_marked_by_name(tmp_path: Path) -> None:
    report = examined(tmp_path, init="self.spare = nn.Linear(d_model, 3)")

    marked = next(verdict for verdict in report.verdicts if verdict.check == "unused_parameters")
    assert marked.outcome == "failed"
    assert "spare.weight" in marked.reason
    assert refusals(report) == []


def test_overflow_under_a_huge_future_leaves_causality_undecided(tmp_path: Path) -> None:
    report = examined(tmp_path, body="y = torch.cumsum(torch.exp(torch.exp(x.clamp(max=12))), 1) * 0 + y")

    verdict = next(verdict for verdict in report.verdicts if verdict.check == "causality")
    assert (verdict.outcome, refusals(report)) == ("unknown", [])

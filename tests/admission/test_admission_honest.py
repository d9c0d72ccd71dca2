"""Correct mixers of many kinds: none is refused, and none is said to leak."""

from __future__ import annotations

from pathlib import Path

import pytest

from arch_search import domains, models
from arch_search.admission.child import examine
from arch_search.admission.request import ChildReport, Request
from arch_search.settings import load_config
from cognition_db.records import Verdict

HEAD = """
import math
import torch
import torch.nn.functional as F
from torch import Tensor, nn

"""

HONEST = {
    "window attention": """
class DeltaNet(nn.Module):
    def __init__(self, hidden_size=32, num_heads=2, **kwargs):
        super().__init__()
        self.h = num_heads
        self.qkv, self.out = nn.Linear(hidden_size, 3 * hidden_size), nn.Linear(hidden_size, hidden_size)

    def forward(self, x, attention_mask=None, **kwargs):
        B, T, D = x.shape
        w = 32
        q, k, v = (F.pad(t, (0, 0, 0, -T % w)).view(B, -1, w, D) for t in self.qkv(x).chunk(3, -1))
        k, v = (torch.cat([F.pad(t, (0, 0, 0, 0, 1, 0))[:, :-1], t], 2) for t in (k, v))
        i = torch.arange(w)
        seen = torch.cat([i[:, None] < i, i[:, None] >= i], 1)
        first = torch.ones(q.shape[1], 1, 2 * w, dtype=torch.bool)
        first[0, :, :w] = False
        a = (q @ k.mT * D**-0.5).masked_fill(~(seen & first), -1e9).softmax(-1)
        return self.out((a @ v).reshape(B, -1, D)[:, :T]), None, None
""",
    "causal convolution and gate": """
class DeltaNet(nn.Module):
    def __init__(self, d_model, num_heads, layer_idx=0):
        super().__init__()
        self.conv = nn.Conv1d(d_model, d_model, 4, groups=d_model, padding=3)
        self.gate = nn.Linear(d_model, d_model)
        self.drop = nn.Dropout(0.1)

    @torch.compile
    def forward(self, x):
        return self.drop(self.conv(x.mT)[..., : x.shape[1]].mT * torch.sigmoid(self.gate(x)))
""",
    "recurrent unit": """
class Recurrent(nn.Module):
    def __init__(self, d_model=32):
        super().__init__()
        self.rnn = nn.GRU(d_model, d_model, batch_first=True)

    def forward(self, x):
        return self.rnn(x)
""",
    "zero-padded spectral filter": """
class DeltaNet(nn.Module):
    def __init__(self, d_model=32, **kwargs):
        super().__init__()
        self.decay = nn.Parameter(torch.linspace(-4, 1, d_model))
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x):
        T = x.shape[1]
        f = torch.exp(-F.softplus(self.decay) * torch.arange(T, dtype=x.dtype)[:, None])
        y = torch.fft.irfft(torch.fft.rfft(x, 2 * T, dim=1) * torch.fft.rfft(f, 2 * T, dim=0), 2 * T, dim=1)
        return self.out(y[:, :T])
""",
    "running maximum and online softmax": """
class DeltaNet(nn.Module):
    def __init__(self, d_model=32, **kwargs):
        super().__init__()
        self.k, self.v = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def forward(self, x):
        k, v = self.k(x), self.v(x)
        top = k.cummax(1).values
        total = torch.logcumsumexp(k, 1)
        return v * torch.exp(k - total) + top
""",
    "half precision inside": """
class DeltaNet(nn.Module):
    def __init__(self, d_model=32, **kwargs):
        super().__init__()
        self.v = nn.Linear(d_model, d_model)
        self.register_buffer("mask", torch.tril(torch.ones(16, 16)))
        self.steps = torch.arange(16)

    def forward(self, x):
        B, T, D = x.shape
        v = F.pad(self.v(x), (0, 0, 0, -T % 16)).view(B, -1, 16, D).to(torch.bfloat16)
        y = (self.mask.to(v.dtype) @ v).float() / (self.steps + 1)[:, None].float()
        return y.view(B, -1, D)[:, :T].to(x.dtype)
""",
    "keeps its last output for a plot": """
class DeltaNet(nn.Module):
    def __init__(self, d_model=32, **kwargs):
        super().__init__()
        self.v, self.last, self.table = nn.Linear(d_model, d_model), None, {}

    def forward(self, x):
        T = x.shape[1]
        if T not in self.table:
            self.table[T] = torch.arange(1, T + 1)[:, None]
        self.last = self.v(x).cumsum(1) / self.table[T]
        return self.last
""",
    "sorting inside a position, with layer norm": """
class Mixer(nn.Module):
    def __init__(self, d_model=32, n_heads=2):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x):
        return self.norm(x.sort(-1).values.cumsum(1)) + x


class _Helper(nn.Module):
    pass
""",
    "loop over tokens": """
class DeltaNet(nn.Module):
    def __init__(self, d_model=32, **kwargs):
        super().__init__()
        self.a, self.b = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def forward(self, x):
        a, b = torch.sigmoid(self.a(x)), self.b(x)
        state, out = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            state = a[:, t] * state + (1 - a[:, t]) * b[:, t]
            out.append(torch.tanh(state))
        return torch.stack(out, 1)
""",
}
SHIPPED = [
    *sorted((Path(models.__file__).parent / "baselines").glob("[a-z]*.py")),
    Path(domains.__file__).parent / "linear_attention" / "seed_program.py",
]

QUICK = {"zero-padded spectral filter", "half precision inside"}


def examined(program: Path) -> ChildReport:
    config = load_config([])
    request = Request(
        class_name=None,
        settings=config.admission,
        stage=config.stage,
        target_parameters=None,
        exempt_cost=program.stem == "softmax_attention",
        vocab=256,
    )
    return examine(program, request, report_to=lambda report: None)


def verdict_of(report: ChildReport, check: str) -> Verdict:
    return next(verdict for verdict in report.verdicts if verdict.check == check)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in HONEST])
def test_an_honest_program_is_admitted_with_causality_passed(tmp_path: Path, name: str) -> None:
    program = tmp_path / f"{name.replace(' ', '_').replace(',', '')}.py"
    program.write_text(HEAD + HONEST[name])

    report = examined(program)

    assert [verdict for verdict in report.verdicts if verdict.refuses] == []
    assert verdict_of(report, "causality").outcome == "passed"
    marked = verdict_of(report, "operator_growth").outcome == "failed"
    assert marked == (name in ("loop over tokens", "recurrent unit"))


@pytest.mark.slow
@pytest.mark.parametrize("program", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_program_is_admitted_without_a_mark(program: Path) -> None:
    report = examined(program)

    marks = [verdict.check for verdict in report.verdicts if verdict.outcome != "passed"]
    assert marks == (["cost"] if program.stem == "softmax_attention" else [])
    assert report.parameter_count > 0
    assert len(report.fingerprint) == 64

"""Parents, a recording of a real model, and a small GBNF sampler and recogniser for the grammars."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from arch_search.domains.linear_attention import SEED_PROGRAM
from cognition_db.records import Candidate, candidate_id

RECORDING = Path(__file__).parents[1] / "data" / "recorded_replies.jsonl"

FREE_PROGRAM = '''"""A mixer outside the toolbox."""
import torch
from torch import nn


class Ema(nn.Module):
    def __init__(self, d_model=64, **kwargs):
        super().__init__()
        self.inner = nn.Linear(d_model, d_model)

    def shape(self, y):
        return torch.tanh(y)

    def forward(self, hidden_states, **kwargs):
        return self.shape(self.inner(hidden_states) * 0.5)
'''


def as_candidate(program: str, class_name: str = "DeltaNet") -> Candidate:
    return Candidate(
        id=candidate_id(program), program=program, class_name=class_name, name="parent", arm="evolve",
        rung="grammar_edit", generation=1, slot=0, parents=(), motivation="", parameter_count=1,
    )  # fmt: skip


@pytest.fixture(scope="session")
def seed() -> Candidate:
    return as_candidate(SEED_PROGRAM)


@pytest.fixture(scope="session")
def free_parent() -> Candidate:
    return as_candidate(FREE_PROGRAM, "Ema")


@pytest.fixture(scope="session")
def candidate() -> Callable[..., Candidate]:
    return as_candidate


@pytest.fixture(scope="session")
def recorded() -> list[dict[str, str]]:
    return [json.loads(line) for line in RECORDING.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def build() -> Callable[..., nn.Module]:
    """Program text -> module of width 16 with 2 heads; the same seed gives the same weights."""

    def _build(program: str, class_name: str = "DeltaNet", *, d_model: int = 16) -> nn.Module:
        module = types.ModuleType("candidate")
        exec(compile(program, "candidate", "exec"), module.__dict__)
        torch.manual_seed(0)
        built = module.__dict__[class_name](hidden_size=d_model, num_heads=2, layer_idx=0)
        assert isinstance(built, nn.Module)
        return built

    return _build


@pytest.fixture(scope="session")
def leak() -> Callable[[nn.Module], float]:
    """Largest change of the past, in float64, when the future is redrawn or cut off (T 40, over a chunk edge)."""

    def _leak(module: nn.Module) -> float:
        generator = torch.Generator().manual_seed(1)
        module = module.double()
        x = torch.randn(2, 40, 16, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            whole, worst = module(x), 0.0
            for cut in (1, 31, 33):
                other = x.clone()
                other[:, cut:] = 30 * torch.randn(other[:, cut:].shape, dtype=torch.float64, generator=generator)
                changed = (module(other)[:, :cut] - whole[:, :cut]).abs().max()
                shorter = (module(x[:, :cut]) - whole[:, :cut]).abs().max()
                worst = max(worst, float(changed), float(shorter))
        return worst

    return _leak


class Gbnf:
    """The part of GBNF that the project's grammars use: literals, classes, bounded repeats, groups, alternatives."""

    _TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\](?:\{\d+,\d+\})?|[a-z_][a-z0-9_]*|[()|]')

    def __init__(self, text: str) -> None:
        self._rules: dict[str, object] = {}
        for line in text.splitlines():
            name, body = line.split(" ::= ", 1)
            self._rules[name] = self._alternatives(self._TOKEN.findall(body))

    def _alternatives(self, tokens: list[str]) -> tuple[str, list[object]]:
        options: list[object] = []
        items: list[object] = []
        while tokens:
            token = tokens.pop(0)
            if token == ")":
                break
            if token == "|":
                options.append(("seq", items))
                items = []
            else:
                items.append(self._alternatives(tokens) if token == "(" else token)
        return "any", [*options, ("seq", items)]

    def sample(self, rng: np.random.Generator) -> str:
        return self._sample("root", rng)

    def _sample(self, node: object, rng: np.random.Generator) -> str:
        if isinstance(node, tuple):
            kind, parts = node
            if kind == "any":
                return self._sample(parts[int(rng.integers(len(parts)))], rng)
            return "".join(self._sample(part, rng) for part in parts)
        assert isinstance(node, str)
        if node[0] == '"':
            return str(json.loads(node))
        if node[0] == "[":
            symbols, low, high = self._class(node)
            return "".join(symbols[int(rng.integers(len(symbols)))] for _ in range(int(rng.integers(low, high + 1))))
        return self._sample(self._rules[node], rng)

    def accepts(self, text: str) -> bool:
        """Whether the whole text is a sentence; by the set of ends that each rule can reach from each start."""
        ends = cache(lambda name, start: frozenset(reach(self._rules[name], start)))

        def reach(node: object, start: int) -> set[int]:
            if isinstance(node, tuple):
                kind, parts = node
                if kind == "any":
                    return {end for part in parts for end in reach(part, start)}
                at = {start}
                for part in parts:
                    at = {end for one in at for end in reach(part, one)}
                return at
            assert isinstance(node, str)
            if node[0] == '"':
                literal = json.loads(node)
                return {start + len(literal)} if text.startswith(literal, start) else set()
            if node[0] == "[":
                symbols, low, high = self._class(node)
                length = 0
                while length < high and text[start + length : start + length + 1] in {*symbols}:
                    length += 1
                return {start + n for n in range(low, length + 1)}
            return set(ends(node, start))

        return len(text) in reach("root", 0)

    @staticmethod
    def _class(token: str) -> tuple[list[str], int, int]:
        body, _, repeat = token.partition("]")
        low, high = map(int, repeat[1:-1].split(",")) if repeat else (1, 1)
        pattern = re.compile(f"{body}]")
        return [chr(code) for code in range(32, 127) if pattern.fullmatch(chr(code))], low, high


@pytest.fixture(scope="session")
def gbnf() -> type[Gbnf]:
    return Gbnf

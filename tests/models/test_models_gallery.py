"""The gallery: published mechanisms with their start values and parameter counts, and what the copies share."""

from __future__ import annotations

import ast
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from arch_search.domains import linear_attention
from arch_search.models import gallery
from arch_search.models.loading import build_mixer, load_mixer_class, mix
from kernels.delta_rule.naive import delta_rule_naive

FILES = sorted(Path(str(gallery.__file__)).parent.glob("[a-z]*.py"))
SEED_PROGRAM = Path(linear_attention.__file__).parent / "seed_program.py"
LAYERS, WIDTH, HEADS = 24, 1024, 8  # of the published models of 340 million parameters
OF_DELTANET = 411.75  # million parameters of the published DeltaNet at that size
PUBLISHED = {"content_sharp_router": 425.44, "fusion_gated_fir_net": 466.90}
GATE_WEIGHTS = ("router_out", "gate_out", "gate", "of_token", "residual")


def of_gallery(name: str) -> Path:
    return next(path for path in FILES if path.stem == name)


def mixer_of(path: Path, *, d_model: int = 32, n_heads: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return build_mixer(
        load_mixer_class(path, None, default_class="DeltaNet"), d_model=d_model, n_heads=n_heads, layer_idx=0
    )


def module_of(path: Path) -> ModuleType:
    return sys.modules[load_mixer_class(path, None).__module__]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax(*logits: float) -> list[float]:
    shares = [math.exp(x) for x in logits]
    return [share / sum(shares) for share in shares]


def test_the_five_winners_are_there_and_one_of_them_in_two_forms() -> None:
    assert [path.stem for path in FILES] == [
        "ada_multi_path_gate_net",
        "content_sharp_router",
        "content_sharp_router_intended",
        "fusion_gated_fir_net",
        "hier_gate_net",
        "path_gate_fusion_net",
    ]


def test_what_programs_have_in_common_is_the_same_text_in_each() -> None:
    texts: dict[str, set[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                texts.setdefault(node.name, set()).add(ast.unparse(node))
    assert {"delta_rule", "causal_fir", "fir_mix", "dirac", "unit"} <= set(texts)
    assert {name: len(found) for name, found in texts.items() if len(found) > 1} == {}


START = [
    ("content_sharp_router", softmax(*[0, 0, 0, 3] * HEADS)[:4], {}),
    ("content_sharp_router_intended", softmax(0, 0, 0, 3), {}),
    ("fusion_gated_fir_net", [0.02 + 0.98 * sigmoid(bias) for bias in (-1, -1, 1, 3)], {}),
    (
        "path_gate_fusion_net",
        [
            (1 - 0.99 * sigmoid(1.25)) / 3 + sigmoid(-2) / 2,
            *[(1 - 0.99 * sigmoid(1.25)) / 3] * 2,
            0.99 * sigmoid(1.25),
        ],
        {"residual.bias": 0.0},
    ),
    ("hier_gate_net", [0.025 + 0.9 * share for share in softmax(-0.5, -0.5, 0.5, 1.5)], {}),
    ("ada_multi_path_gate_net", [0.02 + 0.9 * share for share in softmax(0, 0, 0, 0, 1)], {}),
]


@pytest.mark.parametrize("name, expected, biases", START, ids=[name for name, _, _ in START])
def test_paths_start_with_the_weights_that_the_biases_say(
    name: str, expected: list[float], biases: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = module_of(of_gallery(name))
    seen: list[Tensor] = []
    fir_mix = module.fir_mix

    def noting(v: Tensor, filters: Any, paths: Any, weights: Tensor, scale: Tensor) -> Tensor:
        seen.append(weights)
        return fir_mix(v, filters, paths, weights, scale)  # type: ignore[no-any-return]

    monkeypatch.setattr(module, "fir_mix", noting)
    (cls,) = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, nn.Module)]
    mixer = build_mixer(cls, d_model=32, n_heads=HEADS, layer_idx=0)
    with torch.no_grad():
        for key, parameter in mixer.named_parameters():
            if key.removesuffix(".weight") in GATE_WEIGHTS:
                parameter.zero_()  # what is left of a gate is its bias
            if key in biases:
                parameter.fill_(biases[key])
        mix(mixer, torch.randn(2, 5, 32))
    torch.testing.assert_close(seen[0], torch.tensor(expected).expand(2, 5, HEADS, -1), atol=1e-4, rtol=0)


def test_the_trained_router_starts_with_the_masses_that_were_published() -> None:
    _, (*others, values), _ = START[0]
    assert values == pytest.approx(0.109, abs=5e-4)
    assert others == [pytest.approx(0.005, abs=5e-4)] * 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_filters_start_as_the_identity_up_to_noise(path: Path) -> None:
    noise = 0.02 if "content_sharp" in path.stem else 0.01
    filters = {name: taps.detach() for name, taps in mixer_of(path, d_model=256).named_parameters() if "fir" in name}
    assert len(filters) in (2, 3)
    for name, taps in filters.items():
        assert taps.shape == (256, int(name.removeprefix("fir_")))
        off = taps.clone()
        off[:, -1] -= 1
        assert off.std().item() == pytest.approx(noise, rel=0.1)


@pytest.mark.parametrize("taps", [1, 3, 64])
def test_the_last_tap_meets_the_present_token(taps: int) -> None:
    module = module_of(FILES[0])
    x = torch.randn(2, 9, 4)
    filters = torch.zeros(4, taps)
    filters[:, -1] = 1.0
    assert torch.equal(module.causal_fir(x, filters), x)


@pytest.mark.parametrize("T", [1, 31, 32, 33, 70])
def test_the_delta_rule_of_the_programs_is_that_of_the_kernels(T: int) -> None:
    torch.manual_seed(T)
    q, k, v = (torch.randn(2, T, 3, 8, dtype=torch.float64) for _ in range(3))
    k, beta = nn.functional.normalize(k, dim=-1), torch.rand(2, T, 3, dtype=torch.float64)
    found = module_of(FILES[0]).delta_rule(q, k, v, beta)
    torch.testing.assert_close(found, delta_rule_naive(q, k, v, beta, scale=1.0).output)


@pytest.mark.parametrize("keep", [1.0, 0.7])
def test_retention_scales_what_is_older_than_a_chunk_once_per_chunk(keep: float) -> None:
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 75, 3, 8, dtype=torch.float64) for _ in range(3))
    k, beta = nn.functional.normalize(k, dim=-1), torch.rand(2, 75, 3, dtype=torch.float64)
    state, outputs = torch.zeros(2, 3, 8, 8, dtype=torch.float64), []
    for part in ((q[:, a : a + 32], k[:, a : a + 32], v[:, a : a + 32], beta[:, a : a + 32]) for a in (0, 32, 64)):
        result = delta_rule_naive(*part, scale=1.0, initial_state=state)
        outputs.append(result.output)
        state = keep * state + (result.state - state)
    program = module_of(of_gallery("fusion_gated_fir_net"))
    found = program.retained_delta_rule(q, k, v, beta, torch.full((3,), keep, dtype=torch.float64))
    torch.testing.assert_close(found, torch.cat(outputs, dim=1))


def test_retention_starts_just_below_one() -> None:
    retention = mixer_of(of_gallery("fusion_gated_fir_net")).retention
    assert isinstance(retention, Tensor)
    assert (0.6 + 0.4 * retention.sigmoid()).tolist() == pytest.approx([0.99996] * 2, abs=1e-6)


def parameters_over_deltanet(path: Path) -> int:
    counts = [
        sum(parameter.numel() for parameter in mixer_of(one, d_model=WIDTH, n_heads=HEADS).parameters())
        for one in (path, SEED_PROGRAM)
    ]
    return counts[0] - counts[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_program_has_as_many_parameters_over_deltanet_as_it_says(path: Path) -> None:
    said = re.search(r"Parameters over DeltaNet: (.*?) a layer", path.read_text())
    assert said is not None
    product = re.sub(r"(?<=[\w)]) (?=[\w(])", "*", said[1])
    assert parameters_over_deltanet(path) == eval(product, {"D": WIDTH, "H": HEADS})
    if path.stem in PUBLISHED:
        million = LAYERS * parameters_over_deltanet(path) / 1e6
        assert million == pytest.approx(PUBLISHED[path.stem] - OF_DELTANET, abs=0.01)

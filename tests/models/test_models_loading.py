"""From program text to a mixer by the candidate contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from arch_search.models.loading import ProgramContractError, build_mixer, load_mixer_class, mix

HEADER = "import torch\nfrom torch import nn\n"


def module(name: str, signature: str = "hidden_size, num_heads=4, layer_idx=None, **kwargs") -> str:
    return f"""
class {name}(nn.Module):
    def __init__(self, {signature}):
        super().__init__()
        self.seen = {{k: v for k, v in locals().items() if k not in ("self", "__class__")}}
    def forward(self, hidden_states, **kwargs):
        return hidden_states
"""


def loaded(tmp_path: Path, text: str, class_name: str | None = None) -> type[nn.Module]:
    path = tmp_path / "program-1.py"
    path.write_text(HEADER + text)
    return load_mixer_class(path, class_name, default_class="DeltaNet")


def built(tmp_path: Path, signature: str) -> dict[str, object]:
    mixer = build_mixer(loaded(tmp_path, module("Mixer", signature)), d_model=32, n_heads=2, layer_idx=1)
    return dict(mixer.seen)  # type: ignore[arg-type]


def test_deltanet_is_taken_among_several_modules(tmp_path: Path) -> None:
    assert loaded(tmp_path, module("Helper") + module("DeltaNet")).__name__ == "DeltaNet"


def test_the_only_public_module_is_taken_beside_private_and_imported_ones(tmp_path: Path) -> None:
    text = "from torch.nn import Linear\n" + module("_Helper") + module("Mixer")
    assert loaded(tmp_path, text).__name__ == "Mixer"


def test_a_named_class_is_taken(tmp_path: Path) -> None:
    assert loaded(tmp_path, module("A") + module("B"), "B").__name__ == "B"


@pytest.mark.parametrize(
    "text, class_name, message",
    [
        (module("A") + module("B"), None, "defines A, B; expected a torch.nn.Module named DeltaNet"),
        ("x = 1\n", None, "no public torch.nn.Module"),
        (module("A"), "B", "no torch.nn.Module named B; it defines A"),
        ("DeltaNet = 3\n" + module("A"), None, "no torch.nn.Module named DeltaNet"),
    ],
)
def test_a_program_without_one_clear_class_is_refused(
    tmp_path: Path, text: str, class_name: str | None, message: str
) -> None:
    with pytest.raises(ProgramContractError, match=message) as caught:
        loaded(tmp_path, text, class_name)
    assert "\n" not in str(caught.value)


def test_a_program_with_dataclasses_and_postponed_annotations_loads(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    text = "from dataclasses import dataclass\n@dataclass\nclass Options:\n    width: int = 1\n"
    path.write_text("from __future__ import annotations\n" + HEADER + text + module("Mixer"))
    assert load_mixer_class(path, None).__name__ == "Mixer"


def test_what_the_program_raises_passes_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        loaded(tmp_path, "1 / 0\n")


@pytest.mark.parametrize(
    "signature, expected",
    [
        ("hidden_size, num_heads, layer_idx", {"hidden_size": 32, "num_heads": 2, "layer_idx": 1}),
        ("d_model, n_heads=8", {"d_model": 32, "n_heads": 2}),
        ("*, hidden_size=64", {"hidden_size": 32}),
        ("d_model=None, hidden_size=64, mode='x'", {"d_model": 32, "hidden_size": 32, "mode": "x"}),
        ("**kwargs", {"kwargs": {"hidden_size": 32, "num_heads": 2, "layer_idx": 1}}),
        ("d_model, **kwargs", {"d_model": 32, "kwargs": {"num_heads": 2, "layer_idx": 1}}),
        ("d_model, n_heads, **kwargs", {"d_model": 32, "n_heads": 2, "kwargs": {"layer_idx": 1}}),
    ],
)
def test_a_constructor_gets_the_keywords_it_accepts(
    tmp_path: Path, signature: str, expected: dict[str, object]
) -> None:
    assert built(tmp_path, signature) == expected


@pytest.mark.parametrize("signature", ["dim", "hidden_size, window", "hidden_size, /"])
def test_a_constructor_that_needs_more_is_refused_with_the_name(tmp_path: Path, signature: str) -> None:
    cls = loaded(tmp_path, module("Mixer", signature))
    with pytest.raises(ProgramContractError, match=rf"requires the argument {signature.strip(', /').split(', ')[-1]}"):
        build_mixer(cls, d_model=32, n_heads=2, layer_idx=0)


class Returns(nn.Module):
    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, hidden_states: torch.Tensor) -> object:
        return self.output


@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: (y, None, None), lambda y: [y]])
def test_mix_takes_the_output_or_the_first_of_a_tuple(wrap: object) -> None:
    y = torch.ones(2, 3, 4)
    assert mix(Returns(wrap(y)), torch.zeros(2, 3, 4)) is y  # type: ignore[operator]


@pytest.mark.parametrize("output", [None, (), (None, torch.ones(2, 3, 4)), torch.ones(2, 3, 1), torch.ones(1, 3, 4)])
def test_mix_refuses_anything_else(output: object) -> None:
    with pytest.raises(ProgramContractError):
        mix(Returns(output), torch.zeros(2, 3, 4))

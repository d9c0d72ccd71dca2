"""The comparison of the process with its state at the start: what it names, and what Python does by itself."""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Iterator

import pytest
import torch

from arch_search.admission.framework import Framework


@pytest.fixture
def framework() -> Iterator[Framework]:
    kept, dtype = torch.tanh, torch.get_default_dtype()
    if "__slotnames__" in vars(torch.Tensor):
        del torch.Tensor.__slotnames__
    yield Framework()
    torch.tanh = kept  # type: ignore[assignment]
    torch.set_default_dtype(dtype)
    if "relu7" in vars(torch.Tensor):
        del torch.Tensor.relu7  # type: ignore[attr-defined]


def test_what_python_keeps_on_a_class_once_its_objects_are_copied_is_no_alarm(framework: Framework) -> None:
    copyreg._slotnames(torch.Tensor)  # type: ignore[attr-defined]  # as copying or loading a tensor does
    assert "__slotnames__" in vars(torch.Tensor)
    assert framework.altered() == ""


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda: setattr(torch, "tanh", torch.sigmoid), "torch.tanh is replaced"),
        (lambda: setattr(torch.Tensor, "relu7", torch.relu), "torch.Tensor.relu7 is new"),
        (lambda: torch.set_default_dtype(torch.float64), "the default dtype was torch.float32"),
    ],
)
def test_what_a_program_changes_is_named(framework: Framework, change: Callable[[], object], words: str) -> None:
    change()
    assert words in framework.altered()

"""The comparison of the process with its state at the start: what it names, and what Python does by itself."""

from __future__ import annotations

import copyreg
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

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


WITHOUT_COMPILER = """
import sys
from pathlib import Path

sys.path.insert(0, {folder!r})
from zoo.examining import request_for

from arch_search.admission.child import examine
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.models.stand_in import install

install()
Path("mixer.py").write_text(SEED_PROGRAM)
report = examine(Path("mixer.py"), request_for(None), report_to=lambda report: None)
assert not any(one.refuses for one in report.verdicts), report
assert any(one.check == "certificate" for one in report.verdicts)
print("torch._dynamo" in sys.modules)
"""


def test_no_check_makes_torch_import_its_compiler_which_doubles_the_start(tmp_path: Path) -> None:
    code = WITHOUT_COMPILER.format(folder=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout == "False\n", done.stderr


def test_a_program_that_makes_torch_import_its_compiler_in_the_middle_has_touched_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from arch_search.admission.framework import Framework; kept = Framework()\n"
        "assert 'torch._dynamo' not in sys.modules\nimport torch._dynamo\nprint(repr(kept.altered()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout == "''\n", done.stderr

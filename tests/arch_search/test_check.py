"""`arch-search check`: what is no program ends in one line with the place and what is expected, exit code 1 or 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = "from torch import nn\n\n\nclass {name}(nn.Module):\n    pass\n"
PUBLISHED = Path(__file__).parents[1] / "admission" / "published"

# the file, then what the last line must tell: the place and what is expected
REFUSED = {
    "prose": (b"Here is the program you asked for.\n", ["line 1", "read as Python 3."]),
    "empty": (b"  \n", ["is empty", "expected a Python file"]),
    "huge": (b"x = 1\n" * 2_000_000, ["12000000 bytes", "at most 60000"]),
    "binary": (b"\x7fELF\x02\x01\x01\x00\x00", ["byte 8 is zero", "give a Python file"]),
    "latin-1": (b"x = 1\n# caf\xe9\n", ["line 2", "not UTF-8", "give a Python file"]),
    "unfinished": (b"def f(x):\n    return (x\n", ["line 2", "read as Python 3."]),
    "no class": (b"x = 1\n", ["no class DeltaNet", "no public torch.nn.Module"]),
    "several classes": ((MODULE.format(name="A") + MODULE.format(name="B")).encode(), ["A, B", "--class"]),
}


def check(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "arch_search.cli", "check", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_program_is_refused_in_one_line_with_the_place(tmp_path: Path, name: str) -> None:
    data, told = REFUSED[name]
    (tmp_path / "mine.py").write_bytes(data)

    answer = check("mine.py", cwd=tmp_path)

    last = answer.stdout.splitlines()[-1]
    assert answer.returncode == 1
    assert last.startswith("mine.py: refused by ")
    assert [words for words in told if words not in last] == []
    assert answer.stderr == ""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python reads the syntax of 3.12")
def test_the_syntax_of_a_newer_python_is_refused_with_its_line_and_the_version_that_reads_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import torch\n\n\ndef first[T](items: list[T]) -> T:\n    return items[0]\n")

    answer = check("mine.py", cwd=tmp_path)

    last = answer.stdout.splitlines()[-1]
    assert answer.returncode == 1
    assert "line 4" in last
    assert f"read as Python 3.{sys.version_info.minor}" in last


@pytest.mark.slow
def test_a_missing_import_is_refused_with_its_line_and_what_may_be_imported(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import math\nimport warp_drive\n" + MODULE.format(name="DeltaNet"))

    answer = check("mine.py", cwd=tmp_path)

    last = answer.stdout.splitlines()[-1]
    assert answer.returncode == 1
    assert "No module named 'warp_drive' (line 2: import warp_drive)" in last
    assert "import torch, einops, fla" in last


@pytest.mark.parametrize("file, told", [("none.py", "no such file"), (".", "is a folder"), ("/dev/null", "regular")])
def test_a_path_without_a_file_is_wrong_use(tmp_path: Path, file: str, told: str) -> None:
    answer = check(file, cwd=tmp_path)

    assert answer.returncode == 2
    assert told in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert "give a Python file" in answer.stderr


def test_a_refusal_of_the_text_is_machine_readable_too(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_bytes(b"\x00")

    answer = check("--json", "mine.py", cwd=tmp_path)

    found = json.loads(answer.stdout)
    assert (answer.returncode, found["refused"], [one["check"] for one in found["verdicts"]]) == (1, True, ["syntax"])


@pytest.mark.slow
def test_a_published_program_is_admitted_from_the_command_line_with_its_parameters_matched(tmp_path: Path) -> None:
    answer = check("--json", str(PUBLISHED / "retention_rotary_glu.py"), cwd=tmp_path)

    verdicts = {one["check"]: one for one in json.loads(answer.stdout)["verdicts"]}
    assert answer.returncode == 0
    assert verdicts["certificate"]["outcome"] == "passed"
    assert "against the reference" in verdicts["parameters"]["reason"]

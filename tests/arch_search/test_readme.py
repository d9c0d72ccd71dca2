"""The commands of the README work as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]


def test_the_readme_has_commands_of_both_kinds() -> None:
    assert any(line.startswith("make run") for line in LINES)
    assert any(line.startswith("make test") for line in LINES)
    assert any(line.startswith("arch-search ") for line in LINES)


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_every_make_command_of_the_readme_is_a_target(line: str) -> None:
    answer = subprocess.run([*shlex.split(line), "-n"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.slow
def test_the_commands_of_the_readme_run_one_after_the_other(tmp_path: Path) -> None:
    for name in ("tests", "arch_search"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    for line in (line for line in LINES if line.startswith("arch-search ")):
        command = [sys.executable, "-m", "arch_search.cli", *shlex.split(line)[1:]]
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert answer.returncode == 0, f"{line}\n{answer.stdout}\n{answer.stderr}"
        assert "Traceback" not in answer.stderr

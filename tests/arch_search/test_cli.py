from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from arch_search.cli import main


def _cli(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "arch_search.cli", *arguments], capture_output=True, text=True, timeout=120, cwd=cwd
    )


def test_help_imports_neither_torch_nor_hydra() -> None:
    code = (
        "import sys; from arch_search.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'hydra', 'h5py', 'openai', 'pydantic'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert answer.stdout.strip().endswith("[]")
    assert "arch-search run campaign=demo" in answer.stdout


def test_help_answers_in_under_half_a_second_of_cpu_time() -> None:
    usage = subprocess.run(
        [sys.executable, "-c", "import resource,runpy,sys; sys.argv=['arch-search','--help']\n"
         "try: runpy.run_module('arch_search.cli', run_name='__main__')\n"
         "except SystemExit: pass\n"
         "r=resource.getrusage(resource.RUSAGE_SELF); print('CPU', r.ru_utime + r.ru_stime)"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert float(usage.stdout.rsplit("CPU", 1)[1]) < 0.5


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["run", "campaign.genrations=1"], 2, "campaign.generations"),
        (["status", "no/such/folder"], 1, "no campaign here"),
        (["check", "no_such_file.py"], 2, "no such file"),
        (["frobnicate"], 2, "invalid choice"),
        (["run", "llm=recorded", "llm.recording=missing.jsonl", "campaign=smoke", "slurm=inline"], 2, "missing.jsonl"),
        (["run", "campaign=smoke", "data=text", "data.path=no/such/corpus"], 1, "no/such/corpus"),
        (["run", "campaign=smoke", "campaign.baselines=[warp_drive]"], 2, "mamba2"),
        (["fsck", "no/such/folder"], 1, "no campaign here"),
        (["show", "no/such/folder", "x"], 1, "no campaign here"),
        (["check", "no_such_file.py", "--class", "X", "admission.limit_s=many"], 2, "a valid integer"),
        (["check", "no_such_file.py", "--class", "X", "--jsn"], 2, "unrecognized arguments: --jsn"),
        (["status", "no/such/folder", "campaign.seed=1"], 2, "unrecognized arguments: campaign.seed=1"),
    ],
)
def test_wrong_use_is_one_line_and_its_exit_code(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    answer = _cli(*arguments, cwd=tmp_path)
    assert answer.returncode == code
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr + answer.stdout


def test_unknown_commands_leave_with_2() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["frobnicate"])
    assert ended.value.code == 2

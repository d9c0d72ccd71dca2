"""The batch script of an element in real shells: exit codes, signals handed on, the order to be started again."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slurm.script import element_script

SHELLS = [shell for shell in ("bash", "dash") if shutil.which(shell)]
# saves for a moment when it is asked, and then wants to come back
WORKER = """
import pathlib, signal, sys, time
asked = []
for one in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(one, lambda number, frame: asked.append(signal.Signals(number).name))
pathlib.Path("ready").touch()
while not asked:
    time.sleep(0.01)
time.sleep(0.2)
print(*asked)
sys.exit(4)
"""


SAVING = [sys.executable, "worker.py"]


class Element:
    """One element in a folder with a blank in its name; `scontrol` is a program that writes down how it was called."""

    def __init__(self, folder: Path, shell: str, command: list[str], *, requeue: bool, refusals: int = 0) -> None:
        self.folder = folder / "of a campaign"
        self.folder.mkdir()
        commands = self.folder / "commands"
        commands.write_text(f"exit 99\nexec {shlex.join(command)} >> {shlex.quote(str(self.log))} 2>&1\n")
        (self.folder / "worker.py").write_text(WORKER)
        scontrol = self.folder / "scontrol"
        scontrol.write_text(f'#!/bin/sh\necho "$@" >> calls\n[ $(wc -l < calls) -gt {refusals} ]\n')
        scontrol.chmod(0o755)
        self.process = subprocess.Popen(
            [shell, "-c", "set -eu\n" + element_script(commands, requeue=requeue)],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", **self.job()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def job() -> dict[str, str]:
        return {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "18"}

    @property
    def log(self) -> Path:
        return self.folder / "unit.log"

    def until_ready(self) -> None:
        deadline = time.monotonic() + 20
        while not (self.folder / "ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def ask(self, *signals: signal.Signals) -> int:
        self.until_ready()
        for one in signals:
            self.process.send_signal(one)
        return self.code()

    def code(self) -> int:
        print(*self.process.communicate(timeout=60))
        return self.process.returncode

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("code", [0, 1, 3, 4, 127])
def test_the_element_runs_its_own_line_and_exits_as_its_command_does(tmp_path: Path, shell: str, code: int) -> None:
    element = Element(tmp_path, shell, ["sh", "-c", f"echo it is mine; exit {code}"], requeue=False)
    assert element.code() == code
    assert element.log.read_text() == "it is mine\n"


def test_an_element_without_a_line_fails_with_the_reason(tmp_path: Path, shell: str) -> None:
    (tmp_path / "commands").write_text("true\n")
    script = element_script(tmp_path / "commands", requeue=True)
    done = subprocess.run([shell, "-c", script], env={**os.environ, **Element.job()}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "no command for element 1\n"


def test_the_warning_is_handed_on_waited_for_and_followed_by_a_requeue(tmp_path: Path, shell: str) -> None:
    element = Element(tmp_path, shell, SAVING, requeue=True)
    assert element.ask(signal.SIGUSR1) == 0
    assert element.log.read_text() == "SIGUSR1\n"
    assert element.calls() == ["requeue 17_1"]


def test_an_element_that_slurm_itself_ends_is_not_requeued(tmp_path: Path, shell: str) -> None:
    element = Element(tmp_path, shell, SAVING, requeue=True)
    assert element.ask(signal.SIGUSR1, signal.SIGTERM) == 4
    assert "SIGTERM" in element.log.read_text()
    assert element.calls() == []


def test_without_requeue_the_code_says_that_it_wants_to_come_back(tmp_path: Path, shell: str) -> None:
    element = Element(tmp_path, shell, SAVING, requeue=False)
    assert element.ask(signal.SIGUSR1) == 4
    assert element.calls() == []


@pytest.mark.slow
@pytest.mark.parametrize("refusals, code, calls", [(1, 0, 2), (9, 4, 3)])
def test_a_refused_requeue_is_tried_again_and_then_left_to_the_next_round(
    tmp_path: Path, shell: str, refusals: int, code: int, calls: int
) -> None:
    element = Element(tmp_path, shell, SAVING, requeue=True, refusals=refusals)
    assert element.ask(signal.SIGUSR1) == code
    assert len(element.calls()) == calls


def test_a_worker_that_is_warned_before_it_listens_comes_back(tmp_path: Path, shell: str) -> None:
    element = Element(tmp_path, shell, ["sh", "-c", "touch ready; exec sleep 30"], requeue=True)
    assert element.ask(signal.SIGUSR1) == 0
    assert element.calls() == ["requeue 17_1"]


def test_a_worker_killed_by_another_signal_is_not_requeued(tmp_path: Path, shell: str) -> None:
    element = Element(tmp_path, shell, ["sh", "-c", "kill -KILL $$"], requeue=True)
    assert element.code() == 137
    assert element.calls() == []


def test_many_warnings_while_the_worker_saves_lose_no_exit_code(tmp_path: Path, shell: str) -> None:
    element = Element(tmp_path, shell, SAVING, requeue=True)
    element.until_ready()
    for _ in range(40):
        element.process.send_signal(signal.SIGUSR1)
        time.sleep(0.01)
        if element.process.poll() is not None:
            break
    assert element.code() == 0
    assert element.calls() == ["requeue 17_1"]

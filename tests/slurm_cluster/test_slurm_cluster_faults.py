"""A selection of the fault table in short forms, and the table itself. `make faults` tries all rows in full."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from arch_search.worker.folder import TaskFolder
from tests.slurm_cluster.cluster import missing_programs
from tests.slurm_cluster.faults.bench import Bench, Facts
from tests.slurm_cluster.faults.processes import TrainingWatch, is_killed
from tests.slurm_cluster.faults.rows import ROWS
from tests.slurm_cluster.faults.table import Kept, Outcome, Row, measure, run_table, try_row

_short = partial(try_row, is_short=True)
# about six minutes in all on two cores
SELECTION = ("kill-tasks", "kill-drivers", "preempt-cancel", "slurmctld-stopped", "sacct-garbage", "small-limits")


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.parametrize("name", SELECTION)
def test_a_campaign_survives_the_fault(name: str) -> None:
    if missing := missing_programs():
        pytest.skip(f"Slurm is not installed ({', '.join(missing)}): run tests/slurm_cluster/install.sh as root")
    facts = measure(ROWS[name], is_short=True)
    assert facts


def _row(name: str, tried: list[str], *, holds: bool) -> Row:
    def check(bench: Bench) -> Facts:
        tried.append(name)
        assert holds, "two arrays\nof one name"
        return {"kills": 3}

    return Row(name=name, fault="a kill", must_hold="no loss", check=check)


def test_the_table_counts_what_holds_says_why_another_does_not_and_tries_only_that_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.slurm_cluster.faults.table.SlurmCluster", _NoCluster)
    tried: list[str] = []
    rows = [_row("good", tried, holds=True), _row("bad", tried, holds=False)]
    lines: list[str] = []
    for _ in range(2):
        kept = Kept(tmp_path / "outcomes.json", "these sources")
        assert not run_table(rows, kept=kept, again=False, attempt=_short, say=lines.append)
    assert tried == ["good", "bad", "bad"]
    assert lines[2] == lines[5] == "faults: 1 of 2 hold"
    assert "kills 3" in lines[0]
    assert "two arrays of one name" in lines[1]


def test_outcomes_of_other_sources_are_not_taken_for_those_of_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.slurm_cluster.faults.table.SlurmCluster", _NoCluster)
    tried: list[str] = []
    for state in ("old sources", "new sources"):
        kept = Kept(tmp_path / "outcomes.json", state)
        run_table([_row("good", tried, holds=True)], kept=kept, again=False, attempt=_short, say=lambda line: None)
    assert tried == ["good", "good"]


def test_rows_at_once_never_hold_two_model_servers_and_all_rows_are_tried(tmp_path: Path) -> None:
    running: set[str] = set()
    most: Counter[str] = Counter()
    lock = threading.Lock()

    def attempt(row: Row) -> Outcome:
        with lock:
            running.add(row.name)
            heavy = sum(name.startswith("heavy") for name in running)
            most.update({"all": max(0, len(running) - most["all"]), "heavy": max(0, heavy - most["heavy"])})
        time.sleep(0.05)
        with lock:
            running.discard(row.name)
        return Outcome(row=row.name, holds=True, seconds=0.0, detail="")

    rows = [_row(f"light{index}", [], holds=True) for index in range(6)]
    rows += [replace(_row(f"heavy{index}", [], holds=True), is_heavy=True) for index in range(3)]
    kept = Kept(tmp_path / "outcomes.json", "these sources")
    said: list[str] = []
    assert run_table(rows, kept=kept, again=False, attempt=attempt, say=said.append, lanes=3)
    assert said[-1] == "faults: 9 of 9 hold"
    assert most == {"all": 3, "heavy": 1}


@pytest.mark.parametrize("mask, killed", [("0000000000000100", True), ("0000000000004001", False), ("0", False)])
def test_a_process_that_syncs_to_its_end_after_sigkill_is_no_training(mask: str, killed: bool) -> None:
    status = Path("/proc/self/status").read_text()
    assert not is_killed(status)
    assert is_killed(re.sub(r"ShdPnd:\t\w+", f"ShdPnd:\t{mask}", status)) is killed


@pytest.mark.slow
@pytest.mark.parametrize("children, doubled", [(1, set()), (2, {"a-s0"})])
def test_a_training_with_two_children_is_seen_as_doubled(tmp_path: Path, children: int, doubled: set[str]) -> None:
    starts = [tmp_path / "a-s0" / f"a1-{number:03d}" for number in range(children)]
    for start in starts:
        start.mkdir(parents=True)
        os.mkfifo(TaskFolder(start).order)  # a child waits for its order until somebody writes one
    command = [sys.executable, "-P", "-m", "arch_search.worker.child"]
    with TrainingWatch(tmp_path) as watch:
        started = [subprocess.Popen([*command, str(start)]) for start in starts]
        until = time.monotonic() + (60 if doubled else 7)
        while time.monotonic() < until and not watch.doubled:
            time.sleep(0.2)
        for child in started:
            child.kill()
            child.wait()
    assert set(watch.doubled) == doubled


class _NoCluster:
    """The table alone is looked at."""

    def __init__(self, options: object) -> None:
        pass

    def __enter__(self) -> _NoCluster:
        return self

    def __exit__(self, *_: object) -> None:
        pass

"""Starts that get nowhere: the ledger of a task, and what becomes of a program that never saves."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arch_search.config import Stage
from arch_search.paths import UnitPaths
from arch_search.worker.claims import Start
from arch_search.worker.ledger import Launch, Ledger, has_progressed, stuck_cause

COME_BACK = 4
HANGS = "open('here', 'w').close(); time.sleep(3600)"


def launch(reached_step: int, ended: str = "") -> Launch:
    return Launch(unix=1e9, job="1/0", host="n1", began_step=0, reached_step=reached_step, ended=ended)


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (0, 0),
        (0, 0, 1),
        (5, 0, 0, 6),
        (0, 3, 3, 3, 4),
        (1, 2, 3, 4, 5, 6, 7),
        (4, 4, 4)[:2],
    ],
)
def test_a_task_whose_last_three_starts_saved_something_new_goes_on(steps: tuple[int, ...]) -> None:
    assert stuck_cause([launch(step) for step in steps]) is None


@pytest.mark.parametrize("steps", [(0, 0, 0), (7, 7, 7, 7), (7, 1, 2, 3), (1, 2, 9, 9, 9, 9)])
def test_three_starts_that_saved_nothing_new_are_the_last(steps: tuple[int, ...]) -> None:
    cause = stuck_cause([launch(step) for step in steps])
    assert cause is not None
    assert cause.startswith("3 starts without progress")
    assert f"beyond step {max(steps)}" in cause


def test_kills_in_the_first_seconds_count_only_when_they_never_end() -> None:
    killed = replace(launch(0, "was ended by SIGKILL"), tells=False)
    assert stuck_cause([killed] * 11) is None
    assert stuck_cause([killed] * 11 + [launch(0)] * 2) is not None
    assert stuck_cause([killed, launch(0), killed, launch(0)]) is None
    assert stuck_cause([killed, launch(0), killed, launch(0), launch(0)]) is not None
    assert stuck_cause([killed] * 11 + [launch(1)] + [killed] * 11) is None


def test_a_start_tells_once_it_ended_by_itself_or_had_its_time(tmp_path: Path) -> None:
    ledger = Ledger(UnitPaths(tmp_path), "k", Start(attempt=1, number=1))
    ledger.begin()
    ledger.end("was ended by SIGKILL", from_outside=True)
    ledger.begin()
    ledger.end("exit code 1", from_outside=False)
    ledger.begin()
    ledger.live()
    ledger.end("was ended by SIGKILL", from_outside=True)
    assert [one.tells for one in ledger.launches] == [False, True, True]


def test_the_cause_says_how_the_starts_ended_each_reason_once() -> None:
    cause = stuck_cause([launch(0, "did not stop when asked"), launch(0, "did not stop when asked"), launch(0)])
    assert cause is not None
    assert cause.endswith("(did not stop when asked; killed together with its supervisor)")


def test_a_ledger_goes_on_where_older_starts_ended_and_survives_its_writer(tmp_path: Path) -> None:
    paths = UnitPaths(tmp_path)
    for number, step in ((1, 4), (2, 9)):
        ledger = Ledger(paths, "k", Start(attempt=1, number=number))
        ledger.begin()
        ledger.reach(step)
    again = Ledger(paths, "k", Start(attempt=2, number=1))
    again.begin()
    assert [(one.began_step, one.reached_step) for one in again.launches] == [(0, 4), (4, 9), (9, 9)]


def test_a_start_that_a_failure_of_ours_ended_does_not_count(tmp_path: Path) -> None:
    paths = UnitPaths(tmp_path)
    ledger = Ledger(paths, "k", Start(attempt=1, number=1))
    ledger.begin()
    ledger.discount()
    assert Ledger(paths, "k", Start(attempt=1, number=2)).launches == ()


def test_a_damaged_ledger_of_an_older_start_is_as_none(tmp_path: Path) -> None:
    paths = UnitPaths(tmp_path)
    Ledger(paths, "k", Start(attempt=1, number=1)).begin()
    paths.ledger("k", "a1-001").write_text('[{"unix": 1')
    assert Ledger(paths, "k", Start(attempt=1, number=2)).launches == ()


def test_an_attempt_has_progressed_where_a_step_was_saved_and_in_no_other(tmp_path: Path) -> None:
    paths = UnitPaths(tmp_path)
    for attempt, step in ((1, 4), (2, 4)):
        ledger = Ledger(paths, "k", Start(attempt=attempt, number=1))
        ledger.begin()
        ledger.reach(step)
    assert [has_progressed(paths, attempt) for attempt in (1, 2, 3)] == [True, False, False]


def test_an_attempt_that_recorded_a_task_has_progressed(finished_bench: Any) -> None:
    assert [has_progressed(finished_bench.unit(), attempt) for attempt in (1, 2)] == [True, False]


@pytest.mark.slow
def test_a_program_that_ignores_the_stop_request_is_poison_after_three_starts(
    bench: Callable[..., Any], tiny_stage: Stage
) -> None:
    made = bench(HANGS).with_stage(tiny_stage)
    made = made.rewritten(replace(made.manifest, warn_s=1.5))
    for number in (1, 2, 3):
        process = made.start_until(in_forward(made, number))
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=30) == COME_BACK
    found = made.evaluation()
    assert found.ending == "poison"
    assert found.cause == "3 starts without progress: no checkpoint beyond step 0 (did not stop when asked)"


@pytest.mark.slow
def test_a_child_killed_again_and_again_goes_on_as_long_as_it_saves(
    bench: Callable[..., Any], tiny_stage: Stage
) -> None:
    body = "self.training and self.calls % 4 == 0 and os.kill(os.getpid(), 9)"
    made = bench(body, "pass").with_stage(replace(tiny_stage, steps=12, checkpoint_every_s=1e-6))
    found, expected = made.evaluation(0), made.evaluation(1)
    assert found.ending == "finished", found.cause
    assert found.curve_loss == expected.curve_loss
    assert made.unit().log.read_text().count("SIGKILL") > 3


@pytest.mark.slow
def test_supervisors_killed_in_their_first_seconds_leave_the_task_its_full_time(
    bench: Callable[..., Any], tiny_stage: Stage
) -> None:
    made = bench(HANGS).with_stage(tiny_stage)
    for number in (1, 2, 3):
        process = made.start_until(in_forward(made, number))
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=20)
    found = made.evaluation()
    assert found.ending == "timed_out"


def in_forward(made: Any, number: int) -> Callable[[], bool]:
    """Whether the child of this start of the first attempt has come to the program's forward pass."""
    key = made.manifest.packs[0].tasks[0].key
    return lambda: (made.unit().working(key, f"a1-{number:03d}") / "here").exists()

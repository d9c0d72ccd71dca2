"""The request to stop: which signals make it, and how much time each leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from arch_search.worker.stop import GRACE_S, StopRequest

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = {one: signal.getsignal(one) for one in SIGNALS}
    made = StopRequest()
    made.listen(SIGNALS)
    yield made
    for one, handler in before.items():
        signal.signal(one, handler)


def test_without_a_signal_nothing_is_asked_for(stop: StopRequest) -> None:
    assert not stop()


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_asks_for_a_stop(stop: StopRequest, number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    assert stop()


def test_the_warning_leaves_most_of_its_time_to_the_child_and_the_rest_to_what_follows(stop: StopRequest) -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    assert 0.5 * 300 < stop.grace_s(300) < 300


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGUSR1, signal.SIGTERM), (signal.SIGUSR2,)])
def test_any_other_signal_leaves_little_time_also_after_a_warning(
    stop: StopRequest, numbers: tuple[signal.Signals, ...]
) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)
    assert stop.grace_s(300) == GRACE_S

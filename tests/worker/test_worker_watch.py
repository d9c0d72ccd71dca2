"""Early endings: each is called for by the numbers that deserve it and by no others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arch_search.worker.folder import Progress
from arch_search.worker.watch import Verge, judge

VERGE = Verge(step_s=0.5, step_unit="CPU-seconds", floor_nats=0.3)
WELL = Progress(phase="language_model", step=20, steps=60, loss=2.5, step_s=0.1, cpu_s=4.0, saved_step=0)


@pytest.mark.parametrize(
    "progress",
    [
        WELL,
        replace(WELL, step=2, step_s=3.0),  # warm-up
        replace(WELL, step=3, loss=0.1),  # too few steps behind the mean
        replace(WELL, phase="recall", loss=0.01, step_s=3.0),  # recall can be learned to the end
    ],
)
def test_a_task_that_is_well_goes_on(progress: Progress) -> None:
    assert judge(progress, VERGE) is None


@pytest.mark.parametrize(
    "progress, ending",
    [
        (replace(WELL, loss=float("nan")), "non_finite"),
        (replace(WELL, phase="recall", loss=float("inf")), "non_finite"),
        (replace(WELL, step_s=0.6), "too_slow"),
        (replace(WELL, loss=0.2), "below_floor"),
    ],
)
def test_a_task_past_a_limit_is_ended_with_the_reason(progress: Progress, ending: str) -> None:
    early = judge(progress, VERGE)
    assert early is not None
    assert early.ending == ending
    assert early.cause


def test_without_a_reference_nothing_is_too_slow() -> None:
    assert judge(replace(WELL, step_s=1e6), replace(VERGE, step_s=None)) is None

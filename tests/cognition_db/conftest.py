"""Records to store, and a way to run a piece of code in a child process that is killed without warning."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import (
    Candidate,
    Certificate,
    Evaluation,
    Lesson,
    Proposal,
    Score,
    SlotTry,
    Task,
    Verdict,
    candidate_id,
    canonical_json,
    sha256_text,
    to_json,
)

Work = Callable[[int], Iterator[Any]]


@pytest.fixture(scope="session")
def make_evaluation() -> Callable[..., Evaluation]:
    """An evaluation that finished; keywords replace its fields, `program` sets its candidate."""

    def make(*, program: str = "class DeltaNet: pass", seed: int = 0, attempt: int = 0, **fields: Any) -> Evaluation:
        evaluation = Evaluation(
            task=Task(candidate_id=candidate_id(program), stage="explore", seed=seed, attempt=attempt),
            unit="g0001-u00",
            fencing_token=f"5d1c/g0001-u00/{attempt}/4711/0",
            ending="finished",
            cause="",
            scores=(
                Score(name="recall", value=0.75, count=64, unit="fraction"),
                Score(name="heldout", value=2.5, count=4096, unit="bits per byte"),
            ),
            curve_steps=(10, 20, 30),
            curve_loss=(5.5, 4.25, 3.0),
            tokens_seen=30_000,
            parameter_count=123_456,
            wall_s=12.5,
            cpu_s=11.75,
            peak_memory_mb=301.0,
            resumed_from_step=0,
            started_unix=1_750_000_000.5,
            host="node-1",
            versions={"torch": "2.9", "python": "3.11"},
            config_sha256=sha256_text("config"),
            program_sha256=sha256_text(program),
            jail="bwrap",
            certificate=Certificate(outcome="passed", reason="proved", length=128, layers=2, operators=31, seconds=0.5),
        )
        return replace(evaluation, **fields)

    return make


@pytest.fixture(scope="session")
def make_contents(make_evaluation: Callable[..., Evaluation]) -> Callable[[], ArchiveContents]:
    """A sound archive: a baseline, its admitted child with evaluation and lesson, and a refused try."""

    def make() -> ArchiveContents:
        parent = _candidate("class DeltaNet: pass", slot=0, generation=0, arm="baseline")
        child = _candidate("class DeltaNet: x = 1", slot=3, generation=1, arm="evolve", parents=(parent.id,))
        refusal = Verdict(check="causality", outcome="failed", reason="leak", refuses=True, evidence={"at": [1, 2]})
        return ArchiveContents(
            candidates=(parent, child),
            tries=(
                SlotTry(proposal=_proposal(child, attempt=1), verdicts=child.verdicts, candidate=child),
                SlotTry(proposal=_proposal(child, attempt=0, program="bad"), verdicts=(refusal,), candidate=None),
            ),
            evaluations=tuple(
                make_evaluation(program=item.program, seed=s) for item in (parent, child) for s in (0, 1)
            ),
            lessons=(Lesson(candidate_id=child.id, generation=1, outcome="better", difference=0.1, text="it helps"),),
        )

    return make


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], bool]:
    """Equality of records in which NaN equals NaN."""
    return lambda left, right: canonical_json(to_json(left)) == canonical_json(to_json(right))


@pytest.fixture
def killed_after(tmp_path: Path) -> Callable[[Work, float], int]:
    """Runs work(start) in a child, kills it after so many seconds, returns how many steps it acknowledged."""

    def run(work: Work, seconds: float) -> int:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                for _ in work(0):
                    os.write(writing, b".")
            finally:
                os._exit(1)
        os.close(writing)
        # the first acknowledgement starts the clock, so that kills fall into the work and not into its start
        acknowledged = len(os.read(reading, 1))
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while piece := os.read(reading, 65_536):
            acknowledged += len(piece)
        os.close(reading)
        return acknowledged

    return run


def _candidate(program: str, **fields: Any) -> Candidate:
    passed = Verdict(check="causality", outcome="passed", reason="", evidence={"largest": 0.0})
    plain: dict[str, Any] = {"parents": (), "rung": "grammar_edit", "motivation": "less forgetting"}
    return Candidate(
        id=candidate_id(program),
        program=program,
        class_name="DeltaNet",
        name="net",
        parameter_count=99,
        verdicts=(passed,),
        insights=("2406.06484-unit_keys",),
        fingerprint=(0.5, -0.25),
        **{**plain, **fields},
    )


def _proposal(candidate: Candidate, *, attempt: int, program: str | None = None) -> Proposal:
    return Proposal(
        generation=candidate.generation,
        slot=candidate.slot,
        attempt=attempt,
        arm=candidate.arm,
        rung=candidate.rung,
        parents=candidate.parents,
        seed=2**63 + 5,
        program=candidate.program if program is None else program,
    )

"""Invented archives for selection: candidates with given recall, loss and judge's score per seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from arch_search.config import Selection
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import (
    HIDDEN_SEEDS_FROM,
    Candidate,
    Evaluation,
    Lesson,
    Score,
    Task,
    Verdict,
    candidate_id,
    sha256_text,
)


def program_of(name: str) -> str:
    return f"# invented for tests: {name}"


def invented(
    name: str,
    *,
    recall: Sequence[float] = (),
    loss: Sequence[float] = (),
    arm: str = "evolve",
    generation: int = 1,
    judge: float | None = None,
    ending: str = "finished",
    repeated: Sequence[float] = (),
    slot: int = 0,
    parents: Sequence[str] = (),
    program: str = "",
    cpu_s: float = 1.0,
) -> tuple[Candidate, list[Evaluation], Lesson]:
    """A candidate, one run per value of recall and one with a hidden seed per value of `repeated`, and a lesson."""
    program = program or program_of(name)
    candidate = Candidate(
        id=candidate_id(program),
        program=program,
        class_name="DeltaNet",
        name=name,
        arm=arm,  # type: ignore[arg-type]
        rung="grammar_edit",
        generation=generation,
        slot=slot,
        parents=tuple(candidate_id(program_of(parent)) for parent in parents),
        motivation="",
        parameter_count=1,
        verdicts=(Verdict(check="shape", outcome="passed", reason="", evidence={"lengths": [1, 7]}),),
    )
    runs = []
    hidden = [(HIDDEN_SEEDS_FROM + index, value) for index, value in enumerate(repeated)]
    for seed, value in [*enumerate(recall), *hidden]:
        scores = (
            Score(name="recall_accuracy", value=value, count=512, unit="fraction"),
            Score(name="step_s", value=cpu_s, count=1, unit="s"),
            Score(
                name="heldout_loss",
                value=loss[seed % HIDDEN_SEEDS_FROM] if loss else 3.0,
                count=512,
                unit="nats per token",
            ),
        )
        runs.append(
            Evaluation(
                task=Task(candidate_id=candidate.id, stage="laptop", seed=seed, attempt=1),
                unit="u",
                fencing_token="t",
                ending=ending,  # type: ignore[arg-type]
                cause="",
                scores=scores,
                curve_steps=(),
                curve_loss=(),
                tokens_seen=0,
                parameter_count=1,
                wall_s=1.0,
                cpu_s=cpu_s,
                peak_memory_mb=1.0,
                resumed_from_step=0,
                started_unix=0.0,
                host="n1",
                versions={},
                config_sha256=sha256_text(""),
                program_sha256=sha256_text(program),
            )
        )
    lesson = Lesson(
        candidate_id=candidate.id,
        generation=generation,
        outcome="within_noise",
        difference=0.0,
        text="",
        judge_score=judge,
    )
    return candidate, runs, lesson


@pytest.fixture
def archive_of() -> Callable[..., ArchiveContents]:
    """Archive of the candidates described: name -> keywords of `invented`. The first one is the reference."""

    def build(described: Mapping[str, Mapping[str, object]]) -> ArchiveContents:
        made = [
            invented(name, **({"arm": "baseline", "generation": 0} if index == 0 else {}) | dict(keywords))  # type: ignore[arg-type]
            for index, (name, keywords) in enumerate(described.items())
        ]
        return ArchiveContents(
            candidates=tuple(candidate for candidate, _, _ in made),
            evaluations=tuple(run for _, runs, _ in made for run in runs),
            lessons=tuple(lesson for _, _, lesson in made),
        )

    return build


@pytest.fixture
def selection_of() -> Callable[..., Selection]:
    def build(policy: str, **changes: object) -> Selection:
        values: dict[str, object] = {
            "policy": policy,
            "metric": "recall_accuracy",
            "confidence": 0.95,
            "pool_size": 50,
            "parents_from_top": 10,
            "references": 4,
            "repeat_seeds": 0,
            "cold_start": 0,
            "stagnation": 0,
            "pool_refresh": 1,
            "islands": 3,
            "migrate_every": 100,
            "judge_weight": 0.0,
            "judge_weight_measured": True,
        }
        return Selection(**(values | changes))  # type: ignore[arg-type]

    return build

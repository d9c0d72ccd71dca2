"""Invented campaigns with known truth: names say so, numbers come from a generator, nothing was trained."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from arch_search.analysis.summary import ReportFacts, RoleCalls
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import (
    Candidate,
    Ending,
    Evaluation,
    Lesson,
    Proposal,
    Score,
    SlotTry,
    Task,
    Verdict,
    candidate_id,
    sha256_text,
)

BASELINES = ("softmax_attention", "linear_attention", "gated_linear_attention", "gated_deltanet", "mamba2")
RUNGS = ("grammar_edit", "grammar_edit", "grammar_program", "whole_module", "mutation", "copy")
NAMES = (
    "sigmoid gate on v",
    "decay from key norm",
    "two memories, gated sum",
    "convolution first",
    "scalar write gate",
)
STEPS = tuple(range(0, 61, 3))


def invented_candidate(
    name: str,
    *,
    arm: str = "evolve",
    rung: str = "grammar_edit",
    generation: int = 1,
    slot: int = 0,
    parents: tuple[str, ...] = (),
    motivation: str = "",
) -> Candidate:
    program = f"# invented for tests: {name} {generation} {slot}\nclass DeltaNet: ...\n"
    return Candidate(
        id=candidate_id(program),
        program=program,
        class_name="DeltaNet",
        name=name,
        arm=arm,  # type: ignore[arg-type]
        rung=rung,  # type: ignore[arg-type]
        generation=generation,
        slot=slot,
        parents=parents,
        motivation=motivation,
        parameter_count=812_345,
        verdicts=(Verdict(check="causality", outcome="passed", reason="no leak in 4 lengths"),),
    )


def invented_run(
    candidate: Candidate,
    seed: int,
    *,
    recall: float,
    loss: float = 3.2,
    ending: Ending = "finished",
    cause: str = "",
    stage: str = "laptop",
) -> Evaluation:
    scores = (
        Score(name="recall_accuracy", value=recall, count=512, unit="fraction"),
        Score(name="heldout_loss", value=loss, count=8192, unit="nats per token"),
    )
    curve = tuple(loss + (5.5 - loss) * math.exp(-step / 18) + 0.03 * math.sin(step + seed) for step in STEPS)
    return Evaluation(
        task=Task(candidate_id=candidate.id, stage=stage, seed=seed, attempt=1),
        unit=f"u{seed}",
        fencing_token="t",
        ending=ending,
        cause=cause,
        scores=scores if ending == "finished" else (),
        curve_steps=STEPS if ending == "finished" else STEPS[:5],
        curve_loss=curve if ending == "finished" else (*curve[:4], math.nan),
        tokens_seen=245_760,
        parameter_count=candidate.parameter_count,
        wall_s=38.0,
        cpu_s=35.5,
        peak_memory_mb=410.0,
        resumed_from_step=0,
        started_unix=1.75e9,
        host="n1",
        versions={"torch": "2.13"},
        config_sha256=sha256_text("config"),
        program_sha256=sha256_text(candidate.program),
    )


def invented_try(
    candidate: Candidate | None,
    *,
    generation: int = 1,
    slot: int = 0,
    arm: str = "evolve",
    rung: str = "grammar_edit",
    refused_by: str = "",
    reason: str = "",
) -> SlotTry:
    written = "" if refused_by == "reply" else "class DeltaNet: ..."
    proposal = Proposal(
        generation=generation,
        slot=slot,
        attempt=0,
        arm=arm,  # type: ignore[arg-type]
        rung=rung,  # type: ignore[arg-type]
        parents=candidate.parents if candidate else (),
        seed=1,
        program=candidate.program if candidate else written,
    )
    refusal = Verdict(check=refused_by, outcome="failed", reason=reason, refuses=True)
    return SlotTry(proposal=proposal, verdicts=candidate.verdicts if candidate else (refusal,), candidate=candidate)


class Invention:
    """Builds one campaign of `generations` times `slots` programs around a reference of recall 0.9."""

    def __init__(self, *, generations: int, slots: int, noise: float, gain: float, seeds: int, rng_seed: int) -> None:
        self.rng = np.random.default_rng(rng_seed)
        self.noise, self.gain, self.seeds = noise, gain, seeds
        self.reference = invented_candidate("DeltaNet", arm="baseline", rung="copy", generation=0)
        self.candidates = [self.reference]
        self.tries: list[SlotTry] = []
        self.runs: list[Evaluation] = []
        self.lessons: list[Lesson] = []
        self.train(self.reference, 0.9, max(4, seeds))
        for slot, name in enumerate(BASELINES, 1):
            baseline = invented_candidate(name, arm="baseline", rung="copy", generation=0, slot=slot)
            self.candidates.append(baseline)
            self.train(baseline, 0.9 + 0.02 * (slot - 4), 1)
        for generation in range(1, generations + 1):
            self.generation(generation, slots)

    def train(self, candidate: Candidate, recall: float, seeds: int) -> None:
        for seed in range(seeds):
            value = recall + self.noise * float(self.rng.standard_normal())
            loss = 3.2 - 0.3 * recall + 0.05 * float(self.rng.standard_normal())
            self.runs.append(invented_run(candidate, seed, recall=value, loss=loss))

    def generation(self, generation: int, slots: int) -> None:
        earlier = [row for row in self.candidates if row.arm == "evolve" and row.generation < generation]
        for slot in range(slots):
            rung = RUNGS[slot % len(RUNGS)]
            arm = {"mutation": "mutate", "copy": "placebo"}.get(rung, "evolve")
            parent = earlier[slot % len(earlier)] if earlier and arm == "evolve" and slot % 3 else self.reference
            if self.rng.random() < 0.25 and arm != "placebo":
                self.refuse(generation, slot, arm, rung)
                continue
            title = "placebo" if arm == "placebo" else NAMES[slot % len(NAMES)]
            child = invented_candidate(
                f"{title} {generation}-{slot}",
                arm=arm,
                rung=rung,
                generation=generation,
                slot=slot,
                parents=(parent.id,),
                motivation="The gate lets the state keep what was overwritten.",
            )
            self.candidates.append(child)
            self.tries.append(invented_try(child, generation=generation, slot=slot, arm=arm, rung=rung))
            self.measure(child)

    def refuse(self, generation: int, slot: int, arm: str, rung: str) -> None:
        reasons = {
            "reply": "the reply holds no fenced block of 3 lines",
            "causality": f"output at {slot} changed by 0.{slot + 1}2 when a later input changed",
            "duplicate": "same normal form as an earlier program",
        }
        check = list(reasons)[int(self.rng.integers(3))]
        self.tries.append(
            invented_try(
                None, generation=generation, slot=slot, arm=arm, rung=rung, refused_by=check, reason=reasons[check]
            )
        )

    def measure(self, child: Candidate) -> None:
        draw = self.rng.random()
        if draw < 0.06:
            self.runs += [
                invented_run(child, seed, recall=0.0, ending="non_finite", cause=f"loss is NaN at step {17 + seed}")
                for seed in range(self.seeds)
            ]
        else:
            gain = 0.0 if child.arm == "placebo" else self.gain - (0.5 if draw < 0.2 else 0.0)
            self.train(child, 0.9 + gain, self.seeds)
        self.lessons.append(
            Lesson(
                candidate_id=child.id,
                generation=child.generation,
                outcome="within_noise",
                difference=0.004,
                text="The gate did not move recall beyond noise; the reference keeps the state as well.",
                judge_score=7.0,
            )
        )

    def contents(self) -> ArchiveContents:
        return ArchiveContents(
            tries=tuple(self.tries),
            evaluations=tuple(self.runs),
            lessons=tuple(self.lessons),
            candidates=tuple(self.candidates),
        )


def invented_contents(
    *, generations: int = 2, slots: int = 6, noise: float = 0.03, gain: float = 0.0, seeds: int = 2, rng_seed: int = 0
) -> ArchiveContents:
    return Invention(
        generations=generations, slots=slots, noise=noise, gain=gain, seeds=seeds, rng_seed=rng_seed
    ).contents()


def invented_facts(contents: ArchiveContents, **changes: object) -> ReportFacts:
    reference = next((row.id for row in contents.candidates if row.arm == "baseline"), "0" * 16)
    values: dict[str, object] = {
        "campaign": "invented-001",
        "uuid": "1f0c2d9e-7a1b-4a53-9f57-0c8f8a4b9d11",
        "command": "arch-search run campaign=demo campaign.seed=7",
        "seed": 7,
        "config": {"campaign": {"name": "invented", "seed": 7, "dir": None}, "stage": {"name": "laptop", "steps": 60}},
        "config_sha256": sha256_text("config"),
        "reference_id": reference,
        "metric": "recall_accuracy",
        "confidence": 0.95,
        "loss_ranks": False,
        "model": "Qwen2.5-Coder-1.5B-Instruct",
        "calls": (
            RoleCalls(role="researcher", calls=41, prompt_tokens=60_120, reply_tokens=9_871, seconds=402.0),
            RoleCalls(role="analyst", calls=12, prompt_tokens=9_100, reply_tokens=2_208, seconds=71.0),
        ),
        "versions": {"torch": "2.13.0", "arch-search": "0.1.0"},
        "started_unix": 1.75e9,
        "finished_unix": 1.75e9 + 1500,
        "generations_done": 2,
        "generations_total": 2,
        "finished": True,
    }
    return ReportFacts(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def invent() -> Callable[..., ArchiveContents]:
    return invented_contents


@pytest.fixture
def candidate_of() -> Callable[..., Candidate]:
    return invented_candidate


@pytest.fixture
def run_of() -> Callable[..., Evaluation]:
    return invented_run


@pytest.fixture
def try_of() -> Callable[..., SlotTry]:
    return invented_try


@pytest.fixture
def facts_of() -> Callable[..., ReportFacts]:
    return invented_facts

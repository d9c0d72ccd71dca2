"""The nouns of a campaign: one frozen dataclass each, and their JSON form.

Every other room speaks in these words. A record is plain data: JSON in the journal, columns in HDF5.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter

SCHEMA_VERSION = 3  # 2: jail and certificate of an evaluation; 3: how a proposal was written, what a lesson blames
# Seeds from here on are hidden: they follow from the secret of the campaign, so that no program was made to suit them.
HIDDEN_SEEDS_FROM = 1 << 31

Outcome = Literal["passed", "failed", "unknown"]
Arm = Literal["evolve", "best_of_n", "mutate", "hand", "placebo", "baseline"]
Rung = Literal[
    "grammar_edit",
    "grammar_program",
    "toolbox_program",
    "method_splice",
    "whole_module",
    "crossover",
    "simplify",
    "mutation",
    "hand",
    "copy",
]
# Arms with programs of a language model: `evolve` builds on earlier ones, `best_of_n` is its control and always starts
# anew. Crossover and simplify are rungs of `evolve` without a model.
WRITTEN_ARMS: tuple[Arm, ...] = ("evolve", "best_of_n")
# Rungs on which a model writes, from the one that leaves it the least freedom to the one that leaves it the most.
WRITTEN_RUNGS: tuple[Rung, ...] = (
    "grammar_edit",
    "grammar_program",
    "toolbox_program",
    "method_splice",
    "whole_module",
)
# Arms whose programs may become parents: the others are there to compare with.
PARENT_ARMS: tuple[Arm, ...] = ("evolve", "mutate", "hand")
# How one task came to its end. Only "finished" carries scores that may rank a candidate.
# "poison": started several times without getting any further. "tampered": it changed what training and measurement
# stand on, or its own weights while it was measured.
Ending = Literal[
    "finished",
    "non_finite",
    "too_slow",
    "below_floor",
    "tampered",
    "crashed",
    "out_of_memory",
    "timed_out",
    "poison",
]

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of one check on one program.

    `refuses` is true for a failed check that alone keeps the program out; a failed or unknown check with
    `refuses=False` is only a mark that travels with the candidate.
    """

    check: str
    outcome: Outcome
    reason: str
    refuses: bool = False
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Insight:
    """One claim of one paper, in our own words, with its source."""

    id: str
    arxiv_id: str
    section: str
    title: str
    claim: str
    trigger: str  # what one observes when the claim is likely to help
    how: str
    cost: str
    tags: tuple[str, ...] = ()
    also: tuple[str, ...] = ()  # the trigger in other words: people describe one symptom in many ways
    uncertain: bool = False  # who wrote it down was not sure of the claim or of its place in the paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How a proposal came to be written: the idea, where it comes from, and what the calls of the model cost."""

    idea: str = ""  # the one idea that the writer was asked to follow
    origin: Literal["", "literature", "analysis", "original", "hand"] = ""  # as the Planner or the researcher says
    sources: tuple[str, ...] = ()  # ids of the insights and candidates that the idea names
    unfounded: tuple[str, ...] = ()  # those of them that were not in the prompt
    steering: tuple[str, ...] = ()  # what a researcher had asked for when it was drawn: bans, pins, prompts
    unusable: tuple[str, ...] = ()  # `role: reason` for each that was asked before the writer and sent nothing of use
    calls: tuple[str, ...] = ()  # keys in the call log, in the order of the calls
    prompt_tokens: int = 0
    reply_tokens: int = 0
    model_s: float = 0.0  # seconds of the model for these calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What one try at one slot of a generation returned, unchecked."""

    generation: int
    slot: int
    attempt: int
    arm: Arm
    rung: Rung
    parents: tuple[str, ...]
    seed: int
    program: str = ""  # empty when the reply could not be turned into a program
    class_name: str = "DeltaNet"
    motivation: str = ""
    method: str = ""  # the named method a grammar edit or splice changed
    insights: tuple[str, ...] = ()
    model: str = ""
    prompt_sha256: str = ""
    reply_sha256: str = ""
    repairs: int = 0
    writing: Writing | None = None  # None where no model was asked, and in records older than schema 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A proposal that was admitted. `id` is the first 16 hex digits of the sha256 of its program text."""

    id: str
    program: str
    class_name: str
    name: str
    arm: Arm
    rung: Rung
    generation: int
    slot: int
    parents: tuple[str, ...]
    motivation: str
    parameter_count: int
    verdicts: tuple[Verdict, ...] = ()
    insights: tuple[str, ...] = ()
    # behaviour of the freshly built module on fixed inputs, for duplicate detection; float32 values
    fingerprint: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotTry:
    """Everything one try at a slot left behind: the proposal, its verdicts and, when admitted, the candidate."""

    proposal: Proposal
    verdicts: tuple[Verdict, ...]
    candidate: Candidate | None

    @property
    def refusing(self) -> Verdict | None:
        """The first verdict that keeps the program out; None where none does."""
        return next((verdict for verdict in self.verdicts if verdict.refuses), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One training run: (candidate, stage, seed, attempt)."""

    candidate_id: str
    stage: str
    seed: int
    attempt: int

    @property
    def key(self) -> str:
        """Name of the run without the attempt; at most one evaluation per key enters the archive."""
        return f"{self.candidate_id}-{self.stage}-s{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Candidates of one generation that are trained again, each with every one of the hidden seeds."""

    candidates: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """The tasks that one array element runs, one after the other."""

    unit: str  # name of the work unit, unique in the campaign
    attempt: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One measured number: `value` is the mean over `count` items, `unit` its unit."""

    name: str
    value: float
    count: int
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What tracking dependencies through trained mixers showed; passed: a proof at this length, in train and eval."""

    outcome: Outcome
    reason: str
    length: int  # tokens
    layers: int
    operators: int  # kinds of operators that ran in one layer
    seconds: float  # processor time


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All that one task measured."""

    task: Task
    unit: str
    fencing_token: str  # campaign uuid / unit / attempt / job id / restart count
    ending: Ending
    cause: str  # one line; empty when finished
    scores: tuple[Score, ...]
    curve_steps: tuple[int, ...]  # optimiser steps at which curve_loss was taken
    curve_loss: tuple[float, ...]  # training loss, nats per token
    tokens_seen: int
    parameter_count: int
    wall_s: float
    cpu_s: float
    peak_memory_mb: float
    resumed_from_step: int
    started_unix: float
    host: str
    versions: dict[str, str]
    config_sha256: str
    program_sha256: str
    jail: str = ""  # rung that the child ran in; empty in records older than schema 2, and where no child ran
    certificate: Certificate | None = None  # None where the task did not finish

    def score(self, name: str) -> float | None:
        """Value of the named score, or None where this task did not finish or did not measure it."""
        if self.ending != "finished":
            return None
        return next((score.value for score in self.scores if score.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What the Analyst and the Judge said of a candidate; opinions, which no number depends on."""

    component: str = ""  # the part of the program that is held responsible
    confidence: float = 0.0  # from 0 to 1, as the Analyst says
    trigger: str = ""  # what was observed, as a query for the literature
    effectiveness: int = 0  # marks of the Judge from 1 to 10; 0: none
    novelty: int = 0
    complexity: int = 0
    unusable: tuple[str, ...] = ()  # `role: reason` for each that was asked and sent nothing of use


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What the analysis of one candidate said: computed verdict first, the model's words beside it."""

    candidate_id: str
    generation: int
    outcome: Literal["better", "worse", "within_noise", "not_measured"]
    difference: float  # mean paired improvement over the reference in the selection metric; NaN if not measured
    text: str  # words of the Analyst; empty when no model was asked or its reply was dropped
    judge_score: float | None = None  # recorded opinion 1-10; weight 0 unless its measured correlation earns more
    reply_sha256: str = ""
    analysis: Analysis | None = None  # None where no model was asked, and in records older than schema 3


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter(kind: type) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def to_json(record: object) -> Any:
    """The record as JSON values (dicts, lists, strings, numbers)."""
    return _adapter(type(record)).dump_python(record, mode="json")


def to_json_bytes(record: object) -> bytes:
    """The same as UTF-8, seven times as fast; NaN and infinity become null, so only for records that hold neither."""
    encoded: bytes = _adapter(type(record)).dump_json(record)
    return encoded


def from_json(kind: type[Record], data: Any) -> Record:
    """The record of `kind` that `data` describes; raises pydantic.ValidationError on any mismatch."""
    record: Record = _adapter(kind).validate_python(data)
    return record


def canonical_json(data: Any) -> str:
    """One text per value: sorted keys, no spaces; NaN and infinity as the tokens Python's json reads back."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def candidate_id(program: str) -> str:
    """First 16 hex digits of the sha256 of the program text."""
    return sha256_text(program)[:16]

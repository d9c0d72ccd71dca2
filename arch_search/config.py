"""Settings: what hydra_conf/*.yaml may say, as frozen dataclasses. A setting has one default: the one in the YAML."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

_STRICT = ConfigDict(extra="forbid")
PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Slots:
    """How many proposals of each kind one generation asks for."""

    grammar_edit: Count
    grammar_program: Count
    toolbox_program: Count
    method_splice: Count
    whole_module: Count
    mutation: Count
    placebo: Count


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Campaign:
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$")]
    dir: str | None  # null: campaigns/<name>-NNN, the unfinished one or the next free number
    seed: Count
    generations: PositiveInt  # after generation 0, which trains the baselines
    seeds_per_candidate: PositiveInt
    reference_seeds: PositiveInt
    baselines: tuple[str, ...]  # besides the reference; file names in models/baselines
    slots: Slots
    tries_per_slot: PositiveInt
    repair_rounds: Count
    repair_stop_share: Fraction  # repair is switched off when, after repair_min_tries, fewer succeed
    repair_min_tries: PositiveInt
    attempts_per_task: PositiveInt


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Recall:
    """Overwrite recall: `writes` writes over `keys` keys, then each key is asked and the last value counts."""

    steps: PositiveInt
    batch_size: PositiveInt
    keys: PositiveInt
    writes: PositiveInt  # largest; training draws from a quarter, a half and all of it
    vocab: PositiveInt
    d_model: PositiveInt
    n_layers: PositiveInt
    n_heads: PositiveInt
    lr: Positive
    eval_sequences: PositiveInt


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Stage:
    """One scale of training."""

    name: str
    d_model: PositiveInt
    n_layers: PositiveInt
    n_heads: PositiveInt
    seq_len: PositiveInt
    batch_size: PositiveInt
    steps: PositiveInt
    lr: Positive
    warmup_steps: Count
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Positive
    heldout_sequences: PositiveInt
    parameter_tolerance: Fraction
    checkpoint_every_s: Positive
    task_limit_s: PositiveInt  # wall time of one task, enforced by the supervisor
    slow_factor: Positive  # a task this many times slower per step than the reference's median is ended
    memory_gb: Positive
    threads: PositiveInt
    recall: Recall


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Data:
    kind: Literal["stdlib", "text", "tokens"]
    path: str | None  # file or folder, for text and tokens
    heldout_share: Fraction
    max_bytes: PositiveInt


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Slurm:
    launcher: Literal["local", "inline", "cluster"]
    max_parallel: Count  # local: processes at once, 0 = one per core; cluster: the %N throttle, 0 = none
    tasks_per_unit: PositiveInt
    poll_s: Positive
    timeout_min: PositiveInt
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    gres: str | None
    cpus_per_task: PositiveInt
    memory_gb: Positive
    setup: tuple[str, ...]  # shell lines before the worker: module load, source venv
    extra_sbatch: dict[str, str | int]


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Llm:
    kind: Literal["vllm", "endpoint", "recorded"]
    model: str  # vllm: local path, hub id, or a name of serving/weights.py; endpoint: the served name
    weights: str | None  # a local folder that goes before everything else
    base_url: str | None  # endpoint only
    api_key_env: str  # name of the environment variable that holds the key of an endpoint
    recording: str | None  # recorded only: JSONL of replies taken from a real model
    env_dir: str  # where the environment of vLLM is made
    cache_dir: str  # where weights are kept
    context_tokens: PositiveInt
    parallel_requests: PositiveInt
    threads: Count  # CPU threads of the server, 0 = all cores
    start_limit_s: PositiveInt
    request_limit_s: PositiveInt
    retries: Count


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Sampling:
    """How one role samples. No per-request seed: it kills vLLM's CPU engine."""

    temperature: Annotated[float, Field(ge=0, le=2)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_tokens: PositiveInt


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Roles:
    researcher: Sampling
    engineer: Sampling
    analyst: Sampling
    judge: Sampling
    judge_enabled: bool
    analyst_enabled: bool


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Selection:
    policy: Literal["paired", "asi_arch"]
    metric: Literal["recall_accuracy", "heldout_loss"]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    pool_size: PositiveInt
    parents_from_top: PositiveInt
    references: Count
    judge_weight: Fraction


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Admission:
    where: Literal["host", "job"]
    lengths: tuple[PositiveInt, ...]
    d_model: PositiveInt
    n_heads: PositiveInt
    tolerance: Positive
    max_cost_exponent: Positive
    max_program_bytes: PositiveInt
    limit_s: PositiveInt
    memory_gb: Positive
    duplicate_distance: Positive  # relative behaviour distance below which two programs are the same


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Jail:
    rung: Literal["auto", "bwrap", "landlock", "off"]


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Config:
    """The whole resolved configuration of a campaign."""

    campaign: Campaign
    stage: Stage
    data: Data
    slurm: Slurm
    llm: Llm
    roles: Roles
    selection: Selection
    admission: Admission
    jail: Jail

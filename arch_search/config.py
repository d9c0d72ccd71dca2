"""Settings: what hydra_conf/*.yaml may say, as frozen dataclasses. A setting has one default: the one in the YAML."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

# who may be asked; each prompt says for which of them it is
LLM_ROLES = ("planner", "researcher", "engineer", "analyst", "judge", "novelty_reviewer", "code_reviewer", "summariser")
EMBEDDING = "embedding"  # no role of a prompt: a server may be named for it all the same
_STRICT = ConfigDict(extra="forbid")
PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Word = Annotated[str, Field(coerce_numbers_to_str=True)]  # a name that may be all digits, as of some accounts


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Slots:
    """How many proposals of each kind one generation asks for."""

    grammar_edit: Count
    grammar_program: Count
    toolbox_program: Count
    method_splice: Count
    whole_module: Count
    ladder: Count  # a model, on the rung that has gained most per GPU-second
    crossover: Count  # without a model: hooks of one measured program in another
    simplify: Count  # without a model: a measured program less one component
    mutation: Count
    placebo: Count
    best_of_n: Count  # the model again, without history: always from the reference; forms as of the slots above

    @property
    def evolve(self) -> int:
        """Programs that a model writes from earlier ones."""
        fixed = (self.grammar_edit, self.grammar_program, self.toolbox_program, self.method_splice, self.whole_module)
        return sum(fixed) + self.ladder

    @property
    def entrants(self) -> int:
        """Programs that may become parents."""
        return self.evolve + self.crossover + self.simplify + self.mutation


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Campaign:
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$")]
    dir: str | None  # null: campaigns/<name>-NNN, the unfinished one or the next free number
    seed: Count
    secret_from: str | None  # file with the secret of another campaign, its driver/secret; null: drawn at random
    generations: Count  # after generation 0, which trains the baselines; 0: these are all, and no model is asked
    seeds_per_candidate: PositiveInt
    reference_seeds: PositiveInt
    baseline_seeds: PositiveInt
    baselines: tuple[str, ...]  # besides the reference; file names in the domain's folders of baselines
    slots: Slots
    ladder_probe: Count  # tries on each rung before any is preferred
    ladder_stop_after: PositiveInt  # a rung with none admitted of so many tries is left
    ladder_look_again: PositiveInt  # generations after which one such rung is tried once more
    tries_per_slot: PositiveInt
    repair_rounds: Count
    repair_stop_share: Fraction  # repair is switched off when, after repair_min_tries, fewer succeed
    repair_min_tries: PositiveInt
    attempts_per_task: PositiveInt
    toolbox_growth: Count  # primitives from its own free code that may enter the toolbox; 0: it stays as it is
    max_gpu_hours: Positive | None  # hard stop: nothing is submitted beyond it; null: no limit


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
    # defaults are for manifests of earlier versions, settings have none
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"  # of products; weights, sums and moments stay float32
    micro_batch: Count = 0  # sequences whose gradients are computed at once, then added up; 0: the whole batch
    operators: Literal["as_written", "kernels"] = "as_written"  # what a delta rule in a program's text runs on
    compile_s: Count = 0  # seconds that torch's compiler may take before the first step; 0: it is not asked

    @property
    def step_unit(self) -> str:
        """What the seconds of a step count: the work of a GPU is no CPU time."""
        return "CPU-seconds" if self.device == "cpu" else "seconds"


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Data:
    kind: Literal["stdlib", "text", "tokens"]
    path: str | None  # file or folder, for text and tokens
    heldout_share: Fraction
    max_bytes: PositiveInt


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class DriverJob:
    """What the driver asks for where it is a job itself (`arch-search submit`)."""

    partition: str | None  # null: the site's default
    qos: Word | None
    timeout_min: PositiveInt  # it submits its successor before this
    memory_gb: Positive
    cpus_per_task: PositiveInt


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Slurm:
    launcher: Literal["local", "inline", "cluster"]
    max_parallel: Count  # local: processes at once, 0 = one per core; cluster: the %N throttle, 0 = none
    max_submitted: Count  # cluster: elements of this campaign in the queue at once, 0 = what the site allows
    tasks_per_unit: PositiveInt
    poll_s: Positive
    timeout_min: PositiveInt  # wall time of a unit; with estimate_time the most that is asked for
    estimate_time: bool  # ask for what the measured trainings need, so that backfill can use the unit
    warn_s: PositiveInt  # before its time limit a unit is told to save and to come back
    requeue: bool  # Slurm may start an element again after a preemption, a lost node or its time limit
    stage_in: bool  # copy the corpus to the node's own disk first
    partition: str | None  # several, divided by commas: the first that starts it
    account: Word | None
    qos: Word | None
    constraint: Word | None
    gres: Word | None  # as gpu:1 or gpu:a100:1
    gpus_per_task: Word | None  # as 1 or a100:1, where the site wants it instead of gres
    cpus_per_task: PositiveInt
    memory_gb: Positive
    mail_user: str | None
    mail_type: str | None  # as FAIL,END
    modules: tuple[str, ...]  # `module load` of each before the worker
    venv: str | None  # folder of the environment on the compute nodes, where it is not the driver's
    container: str | None  # an apptainer image that the worker runs in
    setup: tuple[str, ...]  # further shell lines before the worker
    extra_sbatch: dict[str, str | int]
    lease_s: Positive  # a driver that has not renewed its lease for so long is taken for dead
    driver: DriverJob


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class LlmJob:
    """What the model server asks for where it is a job (llm=vllm_job, llm=vllm_batch)."""

    partition: str | None
    account: Word | None
    qos: Word | None
    constraint: Word | None
    gres: Word | None
    gpus_per_task: Word | None
    cpus_per_task: PositiveInt
    memory_gb: Positive
    timeout_min: PositiveInt
    replace_before_min: Positive  # so long before its time limit the next server is submitted
    replicas: PositiveInt
    idle_min: Positive  # a server that nobody has asked for so long is released
    setup: tuple[str, ...]
    extra_sbatch: dict[str, str | int]


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class LlmEndpoint:
    """A further server of the OpenAI form, for the roles that llm.roles sends there."""

    base_url: str
    model: str
    api_key_env: str = ""  # name of the environment variable that holds its key; empty: it asks for none


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Llm:
    kind: Literal["vllm", "vllm_job", "vllm_batch", "endpoint", "recorded"]
    model: str  # vllm: local path, hub id, or a name of serving/weights.py; endpoint: the served name
    weights: str | None  # a local folder that goes before everything else
    base_url: str | None  # endpoint only
    api_key_env: str  # name of the environment variable that holds the key of an endpoint
    recording: str | None  # recorded only: JSONL of replies of a real model, or the folder of a campaign to replay
    env_dir: str  # where the environment of vLLM is made
    cache_dir: str  # where weights are kept
    context_tokens: PositiveInt
    parallel_requests: PositiveInt
    threads: Count  # CPU threads of the server, 0 = all cores
    tensor_parallel: PositiveInt  # GPUs one server is spread over
    start_limit_s: PositiveInt
    request_limit_s: PositiveInt
    retries: Count
    endpoints: dict[str, LlmEndpoint]  # further servers by a name of your choice
    roles: dict[str, str]  # name of the further server that plays a role; all others are played by the one above
    job: LlmJob

    @property
    def callers(self) -> int:
        """How many requests may wait at the same time: a batch gathers all of a generation."""
        return 256 if self.kind == "vllm_batch" else self.parallel_requests

    def model_of(self, role: str) -> str:
        """The model that plays a role."""
        return self.endpoints[self.roles[role]].model if role in self.roles else self.model


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Sampling:
    """How one role samples. No per-request seed: it kills vLLM's CPU engine."""

    temperature: Annotated[float, Field(ge=0, le=2)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_tokens: PositiveInt


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Roles:
    planner: Sampling
    researcher: Sampling
    engineer: Sampling
    analyst: Sampling
    judge: Sampling
    summariser: Sampling
    reviewer: Sampling  # Novelty reviewer and Code reviewer
    planner_enabled: bool  # a call before the Researcher's makes a plan of what was measured and of the insight
    reviewers_enabled: bool  # marks on admitted programs; they decide nothing
    highest_rung: Literal["grammar_edit", "grammar_program", "toolbox_program", "method_splice", "whole_module"]
    judge_enabled: bool
    analyst_enabled: bool
    summariser_enabled: bool  # false: summaries are computed alone
    retrieval: Literal["bm25", "embedding"]  # embedding: BM25 fused with nearness by the server of llm.roles.embedding


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Selection:
    policy: Literal["paired", "asi_arch", "islands", "map_elites", "bandit"]
    metric: Literal["recall_accuracy", "heldout_loss"]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    pool_size: PositiveInt
    parents_from_top: PositiveInt
    references: Count
    cold_start: Count  # measured programs before anything but the reference is a parent
    stagnation: Count  # generations without a better one after which every second parent is the reference; 0: never
    pool_refresh: PositiveInt  # asi_arch: the pool is renewed after so many measured programs
    islands: PositiveInt
    migrate_every: PositiveInt  # generations after which the best of an island may be a parent in the next one
    repeat_seeds: Count  # hidden seeds that a program must be trained with before it becomes a parent; 0: none
    judge_weight: Fraction  # most that the marks of the Judge may count (asi_arch)
    judge_weight_measured: bool  # times what they have earned; false: all of it always, as published


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
    near_duplicate: Positive  # share of changed text in common with an earlier program from which one is marked


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Jail:
    rung: Literal["auto", "bwrap", "landlock", "off"]


@checked(frozen=True, slots=True, kw_only=True, config=_STRICT)
class Domain:
    name: str  # a folder of arch_search/domains


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
    domain: Domain

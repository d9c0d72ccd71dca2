"""Settings from hydra_conf and the command line to a checked Config; the one door to Hydra."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

import hydra_conf
from arch_search.config import EMBEDDING, LLM_ROLES, Config
from arch_search.errors import ConfigError
from cognition_db.records import canonical_json, sha256_text

# Where a campaign runs may change between two starts of it; what it measures may not.
MACHINE_GROUPS = ("slurm", "llm", "jail")
# campaign.secret_from is read when the campaign is made, and names a file of the machine.
MACHINE_KEYS = ("campaign.dir", "campaign.max_gpu_hours", "campaign.secret_from")
# two ways to say one thing: at most one of each pair
_EITHER = (
    ("slurm.gres", "slurm.gpus_per_task"),
    ("llm.job.gres", "llm.job.gpus_per_task"),
    ("slurm.venv", "slurm.container"),
)
# settings that older campaigns do not have, with the value at which everything is as it was without them
_NEUTRAL = {
    "campaign.baseline_seeds": 1,
    "admission.near_duplicate": 2.0,
    "campaign.slots.best_of_n": 0,
    "campaign.slots.ladder": 0,
    "campaign.ladder_probe": 2,
    "campaign.ladder_stop_after": 8,
    "campaign.ladder_look_again": 5,
    "roles.highest_rung": "method_splice",
    "campaign.slots.crossover": 0,
    "campaign.slots.simplify": 0,
    "stage.device": "cpu",
    "stage.precision": "float32",
    "stage.micro_batch": 0,
    "selection.cold_start": 0,
    "selection.stagnation": 0,
    "selection.pool_refresh": 1,
    "selection.islands": 4,
    "selection.migrate_every": 3,
    "selection.repeat_seeds": 0,
    "selection.judge_weight_measured": True,
    "domain.name": "linear_attention",
    "stage.operators": "as_written",
    "stage.compile_s": 0,
    "campaign.toolbox_growth": 0,
    "roles.summariser_enabled": False,
    "roles.summariser.temperature": 0.3,
    "roles.summariser.top_p": 0.95,
    "roles.summariser.max_tokens": 200,
    "roles.planner_enabled": False,
    "roles.planner.temperature": 0.9,
    "roles.planner.top_p": 0.95,
    "roles.planner.max_tokens": 500,
    "roles.reviewers_enabled": False,
    "roles.reviewer.temperature": 0.3,
    "roles.reviewer.top_p": 0.95,
    "roles.reviewer.max_tokens": 160,
    "roles.retrieval": "bm25",
}
# groups of keys that a user names
_OPEN_ENDED = ("slurm.extra_sbatch.", "llm.job.extra_sbatch.", "llm.endpoints.", "llm.roles.")
_ADAPTER = TypeAdapter(Config)


def load_config(overrides: Sequence[str]) -> Config:
    """The configuration that the overrides (`group=choice`, `key.path=value`) select."""
    groups = _groups()
    for override in overrides:
        _check_form(override, groups)
    try:
        with initialize_config_module("hydra_conf", version_base="1.3"):
            composed = compose("config", overrides=[_open_ended(one) for one in overrides])
            _check_keys(composed, overrides, groups)
            plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_hydra_line(error, overrides)) from error
    return config_from_json(plain)


def config_from_json(data: Any) -> Config:
    """The Config that `data` describes; ConfigError names the first wrong key."""
    try:
        config = _ADAPTER.validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{key}={first.get('input')!r}: {first['msg'][0].lower()}{first['msg'][1:]}") from error
    return _consistent(config)


def config_of_older(data: Any) -> Config:
    """The Config of a campaign that was started before settings were added.

    Settings of its machine take their defaults, others the value that changes nothing.

    Raises:
        ConfigError: a setting that can change a measurement is missing or unknown.
    """
    try:
        return config_from_json(data)
    except ConfigError:
        here = config_to_json(load_config([]))
    for key, value in _leaves(here):
        group, _, rest = key.partition(".")
        if group in MACHINE_GROUPS or key in MACHINE_KEYS:
            _set_missing(data, [group, *rest.split(".")], value)
    for key, value in _NEUTRAL.items():
        _set_missing(data, key.split("."), value)
    return config_from_json(data)


def config_to_json(config: Config) -> dict[str, Any]:
    data: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return data


def config_sha256(config: Config) -> str:
    """Hash of all that may change a measurement: everything but the machine's groups and keys."""
    data = config_to_json(config)
    for group in MACHINE_GROUPS:
        del data[group]
    leaves = dict(_leaves(data))
    unsaid = [key for key, neutral in _NEUTRAL.items() if leaves[key] == neutral]
    for key in (*MACHINE_KEYS, *unsaid):
        *path, name = key.split(".")
        del reduce(getitem, path, data)[name]
    return sha256_text(canonical_json(_without_empty(data)))


def changed_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`key: old there, new here` for every setting that differs and may not change within a campaign."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    skipped = tuple(f"{group}." for group in MACHINE_GROUPS)
    return [
        f"{key}: {before.get(key)!r} there, {after.get(key)!r} here"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(skipped) and key not in MACHINE_KEYS
    ]


def _consistent(config: Config) -> Config:
    campaign, stage = config.campaign, config.stage
    for chosen, key, value in (
        (config.llm.kind == "endpoint", "llm.base_url", config.llm.base_url),
        (config.llm.kind == "recorded", "llm.recording", config.llm.recording),
        (config.data.kind != "stdlib", "data.path", config.data.path),
    ):
        if chosen and not value:
            raise ConfigError(f"{key} is not set; give it on the command line: {key}=...")
    for one, other in _EITHER:
        values = [reduce(getattr, key.split("."), config) for key in (one, other)]
        if all(values):
            raise ConfigError(f"{one}={values[0]} and {other}={values[1]} are both set; set one of them to null")
    _require_known_servers(config)
    job = config.llm.job
    if config.llm.kind == "vllm_job" and 2 * job.replace_before_min > job.timeout_min:
        raise ConfigError(
            f"llm.job.replace_before_min={job.replace_before_min:g} is more than half of "
            f"llm.job.timeout_min={job.timeout_min}: servers would follow one another without end"
        )
    for key in ("seeds_per_candidate", "baseline_seeds"):
        if campaign.reference_seeds < getattr(campaign, key):
            raise ConfigError(
                f"campaign.reference_seeds={campaign.reference_seeds} is less than "
                f"campaign.{key}={getattr(campaign, key)}; programs are paired with its seeds"
            )
    slots = campaign.slots
    if slots.best_of_n and not slots.evolve:
        raise ConfigError(
            f"campaign.slots.best_of_n={slots.best_of_n} is the control of programs that a model writes from earlier "
            "ones, and no slot asks for such; set campaign.slots.grammar_edit or another of them"
        )
    for name, d_model, n_heads in (
        ("stage", stage.d_model, stage.n_heads),
        ("stage.recall", stage.recall.d_model, stage.recall.n_heads),
        ("admission", config.admission.d_model, config.admission.n_heads),
    ):
        if d_model % n_heads:
            raise ConfigError(f"{name}.d_model={d_model} is not a multiple of {name}.n_heads={n_heads}")
    return config


def _require_known_servers(config: Config) -> None:
    """ConfigError where llm.roles names a role or a server that there is not, or is not supported."""
    llm = config.llm
    for role, name in llm.roles.items():
        if role not in (*LLM_ROLES, EMBEDDING):
            raise ConfigError(f"llm.roles.{role}: no such role; {_nearest(role, (*LLM_ROLES, EMBEDDING))}")
        if name not in llm.endpoints:
            raise ConfigError(f"llm.roles.{role}={name}: no such server; {_nearest(name, list(llm.endpoints))}")
    if llm.roles and llm.kind in ("vllm_batch", "recorded"):
        raise ConfigError(
            f"llm.roles is not supported with llm={llm.kind}, where one model answers for all roles; leave it out"
        )
    wanted = config.roles.retrieval == "embedding"
    if wanted and llm.kind != "recorded" and EMBEDDING not in llm.roles:
        raise ConfigError(
            "roles.retrieval=embedding needs the server of an embedding model: llm.endpoints.NAME.base_url=... "
            f"llm.endpoints.NAME.model=... llm.roles.{EMBEDDING}=NAME (not with llm=vllm_batch)"
        )
    if not wanted and EMBEDDING in llm.roles:
        raise ConfigError(
            f"llm.roles.{EMBEDDING}={llm.roles[EMBEDDING]}: nothing is embedded with roles.retrieval="
            f"{config.roles.retrieval}; set it to embedding, or leave the server out"
        )


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"nearest: {', '.join(near)}; " if near else ""
    return f"{hint}there are: {', '.join(known) or 'none'}"


def _groups() -> dict[str, list[str]]:
    root = Path(hydra_conf.__file__).parent
    return {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml") if file.stem != "base")
        for folder in root.iterdir()
        if folder.is_dir() and not folder.name.startswith("_")
    }


def _check_form(override: str, groups: dict[str, list[str]]) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is not a setting; write key=value, as campaign=demo or stage.steps=200")
    if key in groups and value not in groups[key]:
        raise ConfigError(f"{override}: no such choice; {_nearest(value, groups[key])}")
    if "." not in key and key not in groups:
        raise ConfigError(f"{key} is not a setting; {_near(key, groups)}")


def _open_ended(override: str) -> str:
    """As Hydra wants it: a key that the user named is marked as new, and a text with commas is quoted."""
    key, _, value = override.partition("=")
    if "," in value and value[0] not in "[{'\"":
        override = f"{key}='{value}'"
    return f"++{override}" if key.startswith(_OPEN_ENDED) else override


def _check_keys(config: DictConfig, overrides: Sequence[str], groups: dict[str, list[str]]) -> None:
    known = {key for key, _ in _leaves(OmegaConf.to_container(config))}
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key not in groups and not any(leaf == key or leaf.startswith(f"{key}.") for leaf in known):
            raise ConfigError(f"{key} is not a setting; {_near(key, known)}")


def _near(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known), n=3, cutoff=0.5)
    return f"nearest: {', '.join(near)}" if near else "arch-search run --help names the groups"


def _set_missing(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        data = data.setdefault(name, {})
    data.setdefault(path[-1], value)


def _without_empty(data: dict[str, Any]) -> dict[str, Any]:
    """Without groups of which nothing is left to say: older campaigns do not have them."""
    kept = {key: _without_empty(value) if isinstance(value, dict) else value for key, value in data.items()}
    return {key: value for key, value in kept.items() if value != {}}


def _leaves(data: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, data


def _hydra_line(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's messages are several lines of its own vocabulary; ours is one line with the nearest valid names."""
    text = " ".join(str(error).split())
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if f"'{key}'" in text or (key and key.rpartition(".")[2] in text and "not in struct" in text):
            with initialize_config_module("hydra_conf", version_base="1.3"):
                plain = compose("config", overrides=[o for o in overrides if "." not in o.partition("=")[0]])
            return f"{key} is not a setting; {_near(key, (leaf for leaf, _ in _leaves(OmegaConf.to_container(plain))))}"
    return f"{' '.join(overrides)}: {text.partition(' See https')[0]}"

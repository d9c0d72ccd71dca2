"""Refusals: from what sbatch says about a request to one line with the setting at fault and what the site allows.

The words are those of Slurm 22.05 (slurm_strerror and sbatch); ones that are not known here are passed on as they are.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from slurm.errors import UnavailableError
from slurm.units import Resources

Ask = Callable[[list[str]], str]  # command -> its standard output; raises UnavailableError

_MOST_NAMED = 12
_PLAIN = ("--noheader", "--parsable2")
_UNSATISFIED = re.compile(r"Requested node configuration is not available|Requested partition configuration not avail")
# the first that is found names the setting: limits before policies, accounts before the partitions they name
_RULES = (
    (r"(QOS|Assoc)\w*Wall|time limit is invalid|time-min specification", "timeout_min"),
    (r"(QOS|Assoc)\w*Submit", "max_submitted"),
    (r"(QOS|Assoc)\w*Cpu|More processors|CPU count|more tasks than available", "cpus_per_task"),
    (r"(QOS|Assoc)\w*Mem|Memory specification can not|Memory required by task", "memory_gb"),
    (r"(QOS|Assoc)\w*GRES|generic resource|GRES|gpus-per-task", "gres"),
    (r"Invalid account|breached requested QOS", "account"),
    (r"Invalid qos", "qos"),
    (r"feature specification|subset of --constraints", "constraint"),
    (r"reservation", "extra_sbatch.reservation"),
    (r"license", "extra_sbatch.licenses"),
    (r"wckey", "extra_sbatch.wckey"),
    (r"Node count", "extra_sbatch.nodes"),
    (r"nodes not in this partition|Invalid node name", "extra_sbatch.nodelist"),
    (r"partition", "partition"),
    (r"accounting/QOS policy", "qos"),
)
_OPTIONS = {
    "time": "timeout_min",
    "mem": "memory_gb",
    "cpus-per-task": "cpus_per_task",
    "mail-type": "mail_type",
    "mail-user": "mail_user",
    **{name: name for name in ("partition", "account", "qos", "constraint", "gres")},
}


def explain(message: str, resources: Resources, ask: Ask, *, group: str = "slurm") -> str:
    """One line from `message`, all that sbatch printed: Slurm's words, the setting with its value, what is allowed.

    `group` is where the settings of this request stand, as "slurm" or "llm.job". Asks sinfo and sacctmgr through
    `ask`, at most twice; where they do not answer, the line says so instead of what is allowed.
    """
    words = own_words(message)
    setting = _setting_of(words, resources)
    try:
        if setting is None and _UNSATISFIED.search(words):
            return f"Slurm refuses {_unsatisfied(words, resources, ask, group)}"
        if setting is None:
            return f"Slurm refuses the request: {words}"
        allowed = _allowed(words, setting, ask)
    except UnavailableError as error:
        allowed = f"what is allowed can't be listed here ({error})"
    return f"Slurm refuses {named(setting or group, resources, group)}: {words}" + (f"; {allowed}" if allowed else "")


def own_words(message: str) -> str:
    """What Slurm says about the request, without its program's name, each sentence once."""
    said: list[str] = []
    for line in message.splitlines():
        text = re.sub(r"^(sbatch: )?(error: )?(Batch job submission failed: |allocation failure: )?", "", line.strip())
        if text and text not in said and not text.startswith(("Try ", "subprocess", "Command ")):
            said.append(text)
    return ": ".join(said) or "no reason given"


def named(setting: str, resources: Resources, group: str) -> str:
    """`slurm.partition=nope`: a setting as it stands on the command line, with the value that was asked for."""
    key = f"{group}.{setting}"
    name = setting.removeprefix("extra_sbatch.")
    if name != setting:
        value = {option.replace("_", "-"): value for option, value in resources.extra_sbatch.items()}.get(name)
    else:
        value = getattr(resources, setting, None)
    return key if value is None else f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"


def user_name() -> str:
    """The user's name as Slurm's accounting knows it; the number where the system has no name for it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def gres_asked(resources: Resources) -> str | None:
    """GPUs per node in Slurm's gres text, as "gpu:a100:1", from either of the two settings."""
    return f"gpu:{resources.gpus_per_task}" if resources.gpus_per_task else resources.gres


def _setting_of(words: str, resources: Resources) -> str | None:
    option = re.search(r"(?:Invalid|unrecognized option|ambiguous) '?--([a-z][a-z-]*)", words)
    if option:
        return _OPTIONS.get(option[1], f"extra_sbatch.{option[1]}")
    if _UNSATISFIED.search(words) and "Memory specification" not in words:
        return None
    setting = next((setting for pattern, setting in _RULES if re.search(pattern, words)), None)
    if setting == "gres" and resources.gpus_per_task:
        return "gpus_per_task"
    if setting == "extra_sbatch.nodelist" and "exclude" in resources.extra_sbatch:
        return "extra_sbatch.exclude"
    return setting


# ---- what is allowed


def _allowed(words: str, setting: str, ask: Ask) -> str:
    if re.match(r"QOS|Assoc", words):
        return _limits(words.startswith("QOS"), ask)
    if setting in ("account", "qos"):
        return _own_associations(setting, ask)
    if setting not in _LISTED:
        return ""
    what, of_nodes = _LISTED[setting]
    partitions: dict[str, list[str]] = {}
    for node in _nodes(ask):
        partitions.setdefault(of_nodes(node), []).append(node.partition)
    if setting == "partition":
        return f"{what}: {_some([f'{name}{text}' for text, names in partitions.items() for name in names])}"
    return f"{what}: {_some([f'{text} ({_some(sorted(set(names)))})' for text, names in partitions.items()])}"


def _own_associations(setting: str, ask: Ask) -> str:
    user, column = user_name(), 0 if setting == "account" else 1
    rows = _rows(ask(["sacctmgr", *_PLAIN, "show", "associations", f"user={user}", "format=account,qos"]), 2)
    found = sorted({name for row in rows for name in row[column].split(",") if name})
    what = "accounts" if setting == "account" else "qos"
    return f"{what} of {user}: {_some(found)}" if found else f"{user} has no {what} here"


def _limits(of_qos: bool, ask: Ask) -> str:
    """Limits of the accounting, in its own words: of every qos, or of the user's associations."""
    what = ["qos"] if of_qos else ["associations", f"user={user_name()}"]
    columns = ["name" if of_qos else "account", "maxwall", "maxtres", "maxsubmit"]
    if of_qos:
        columns += ["maxtrespu", "maxsubmitpu"]
    rows = _rows(ask(["sacctmgr", *_PLAIN, "show", *what, f"format={','.join(columns)}"]), len(columns))
    told = [
        f"{name} {' '.join(f'{column}={value}' for column, value in zip(columns[1:], values, strict=True) if value)}"
        for name, *values in rows
        if any(values)
    ]
    return f"limits: {_some(told)}" if told else ""


def _rows(text: str, width: int) -> list[list[str]]:
    return [fields for line in text.splitlines() if len(fields := line.split("|")) == width]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nodes:
    """Nodes of one kind in one partition, as sinfo shows them."""

    partition: str
    default: bool
    up: bool
    time_limit: str
    cpus: int
    memory_mb: int
    gres: tuple[str, ...]
    features: tuple[str, ...]
    count: int


def _nodes(ask: Ask) -> list[_Nodes]:
    text = ask(["sinfo", "--noheader", "--exact", "--format=%P|%a|%l|%c|%m|%G|%f|%D"])
    return [
        _Nodes(
            partition=name.strip().rstrip("*"),
            default=name.strip().endswith("*"),
            up=state == "up",
            time_limit=time_limit,
            cpus=_number(cpus),
            memory_mb=_number(memory),
            gres=tuple(re.sub(r"\(.*?\)", "", gres).split(",")) if gres != "(null)" else (),
            features=tuple(features.split(",")) if features != "(null)" else (),
            count=_number(count),
        )
        for name, state, time_limit, cpus, memory, gres, features, count in _rows(text, 8)
    ]


# setting -> what is listed, and the text for nodes of one kind; partitions with the same text are named together
_LISTED: Mapping[str, tuple[str, Callable[[_Nodes], str]]] = {
    "partition": ("partitions here", lambda node: f" (up to {node.time_limit})" if node.up else " (down)"),
    "timeout_min": ("longest time", lambda node: node.time_limit),
    "memory_gb": ("largest node", lambda node: f"{node.memory_mb / 1024:.4g} GB"),
    "cpus_per_task": ("largest node", lambda node: f"{node.cpus} cores"),
    "gres": ("nodes have", lambda node: ",".join(node.gres) or "no gres"),
    "gpus_per_task": ("nodes have", lambda node: ",".join(node.gres) or "no gres"),
    "constraint": ("features", lambda node: ",".join(node.features) or "none"),
    "extra_sbatch.nodes": ("nodes", lambda node: str(node.count)),
}


def _unsatisfied(words: str, resources: Resources, ask: Ask, group: str) -> str:
    """Slurm names no setting here: find the first that no node of the partitions can give."""
    nodes = _nodes(ask)
    wanted = resources.partition.split(",") if resources.partition else [n.partition for n in nodes if n.default]
    nodes = [node for node in nodes if node.partition in wanted] or nodes
    gres, setting = gres_asked(resources), "gpus_per_task" if resources.gpus_per_task else "gres"
    lacking = [
        *([setting] if gres and not any(_gives(node.gres, gres) for node in nodes) else []),
        *(["cpus_per_task"] if all(node.cpus < resources.cpus_per_task for node in nodes) else []),
        *(["memory_gb"] if all(node.memory_mb < resources.memory_gb * 1024 for node in nodes) else []),
    ]
    if lacking:
        return f"{named(lacking[0], resources, group)}: {words}; {_allowed(words, lacking[0], ask)}"
    asked = ("cpus_per_task", "memory_gb", setting, "constraint", "extra_sbatch.nodes")
    told = ", ".join(text for key in asked if "=" in (text := named(key, resources, group)))
    kinds = sorted({f"{n.count} x {n.cpus} cores {n.memory_mb} MB {','.join(n.gres) or 'no gres'}" for n in nodes})
    return f"{told}: {words}; nodes in {','.join(wanted)}: {_some(kinds)}"


def _gives(has: tuple[str, ...], wanted: str) -> bool:
    """Whether a node with the gres `has` can give every part of `wanted`; both in Slurm's text."""
    return all(
        any(
            name == name_there and kind in ("", kind_there) and count <= count_there
            for name_there, kind_there, count_there in map(_gres_parts, has)
        )
        for name, kind, count in map(_gres_parts, wanted.split(","))
    )


def _gres_parts(text: str) -> tuple[str, str, int]:
    """Name, type ("" for any) and count of "gpu:a100:2", "gpu:a100", "gpu:2" or "gpu"."""
    name, *rest = text.split(":")
    count = int(rest.pop()) if rest and rest[-1].isdigit() else 1
    return name, rest[0] if rest else "", count


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED])
    return shown if len(names) <= _MOST_NAMED else f"{shown} and {len(names) - _MOST_NAMED} more"


def _number(text: str) -> int:
    """sinfo writes "64+" where nodes of a row differ."""
    digits = re.match(r"\d+", text)
    return int(digits[0]) if digits else 0

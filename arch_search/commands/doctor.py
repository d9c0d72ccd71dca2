"""`arch-search doctor`: what this machine and site can and can't do, each line with what follows from it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from arch_search.commands import doctor_cluster, doctor_offline
from arch_search.commands.findings import Finding
from arch_search.config import EMBEDDING, Config, Llm
from arch_search.errors import JailError
from arch_search.jail import rungs
from arch_search.serving import catalogue, environment, machine, server
from arch_search.serving.endpoint import foreign_endpoint
from arch_search.settings import load_config
from slurm import site

_SERVER_LIMIT_S = 30.0  # for one answer of a server of others


def run(options: argparse.Namespace) -> int:
    config = load_config(options.overrides)
    if options.impossible == "vllm":
        reason = vllm_impossible(config.llm)
        print(reason, end="" if not reason else "\n")
        return 0
    findings = []
    for finding in _all(config, options):
        print(finding.line(), flush=True)
        findings.append(finding)
    return 0 if all(finding.good for finding in findings if finding.needed) else 1


def _all(config: Config, options: argparse.Namespace) -> Iterator[Finding]:
    yield from examine(config.llm)
    yield from servers(config.llm)
    yield from doctor_cluster.limits(config)
    if config.slurm.launcher == "cluster" and site.is_available():
        refusals = list(doctor_cluster.refusals(config))
        yield from refusals or [Finding(topic="requests", good=True, text=doctor_cluster.TAKEN)]
        if options.probe and not refusals:
            yield from doctor_cluster.nodes(config, wait_s=options.wait_s, say=_say)
    if options.offline:
        yield from doctor_offline.prove(config, options.overrides)


def examine(llm: Llm) -> Iterator[Finding]:
    """Findings about this machine, cheap ones first; imports no torch and starts nothing."""
    python = f"{sys.version.split()[0]} (3.11 or later is needed)"
    yield Finding(topic="python", good=sys.version_info >= (3, 11), text=python, needed=True)
    missing = [name for name in ("torch", "h5py", "submitit", "openai") if importlib.util.find_spec(name) is None]
    text = f"missing: {', '.join(missing)}; make install" if missing else "all there"
    yield Finding(topic="packages", good=not missing, text=text, needed=True)
    yield _shadowed()
    cores, memory = os.cpu_count() or 1, machine.available_memory_gb()
    text = f"{cores} cores, {memory:.0f} GB memory free, {_disk_gb():.0f} GB disk free here"
    yield Finding(topic="machine", good=True, text=text)
    gpu = machine.has_nvidia_gpu()
    text = "NVIDIA driver found" if gpu else "none: training and the model run on the CPU"
    yield Finding(topic="gpu", good=gpu, text=text)
    yield _jail()
    reason = vllm_impossible(llm)
    ready = environment.is_complete(llm)
    text = reason or ("installed" if ready else "can be installed: arch-search prefetch")
    yield Finding(topic="vllm", good=not reason, text=text)
    for extra, what in (
        ("lm_eval", "benchmarks"),
        ("fla", "flash-linear-attention layers"),
        ("triton", "fast kernels"),
    ):
        there = importlib.util.find_spec(extra) is not None
        text = "installed" if there else f"not installed: no {what} (an extra)"
        yield Finding(topic=extra, good=there, text=text)


def servers(llm: Llm) -> Iterator[Finding]:
    """Servers of others that the settings name, each asked for one token, or for an embedding."""
    named = {"model": server.external_endpoint(llm, os.environ)} if llm.kind == "endpoint" else {}
    for name, further in llm.endpoints.items():
        named[name] = foreign_endpoint(further.base_url, further.model, further.api_key_env, os.environ)
    for name, endpoint in named.items():
        embeds = name == llm.roles.get(EMBEDDING)
        failure = server.probe_failure(endpoint, _SERVER_LIMIT_S, embeds=embeds)
        text = f"{name} ({endpoint.model} at {endpoint.base_url}): {failure or 'answers'}"
        yield Finding(topic="server", good=not failure, text=text, needed=True)


def _say(line: str) -> None:
    print(line, flush=True)


def vllm_impossible(llm: Llm) -> str:
    """Why a vLLM server cannot run here; empty when it can."""
    if not machine.has_nvidia_gpu():
        support = machine.cpu_support()
        if not support.ok:
            return support.reason
    known = catalogue.find_model(llm.model)
    if known and machine.available_memory_gb() < known.memory_gb:
        return f"{known.memory_gb:.0f} GB of memory are needed, {machine.available_memory_gb():.0f} GB are free"
    return ""


def _shadowed() -> Finding:
    """`kernels` and `slurm` are also names of packages on the index."""
    root = Path(__file__).resolve().parents[2]
    for name in ("kernels", "slurm", "cognition_db", "hydra_conf"):
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin.parents[1] != root:
            text = f"a foreign package {name} ({origin}) hides ours; use an own environment"
            return Finding(topic="names", good=False, text=text, needed=True)
    text = "no foreign package hides kernels, slurm, cognition_db or hydra_conf"
    return Finding(topic="names", good=True, text=text, needed=True)


def _jail() -> Finding:
    try:
        text = f"programs run under {rungs.best_rung('auto')}"
        return Finding(topic="jail", good=True, text=text, needed=True)
    except JailError as error:
        return Finding(topic="jail", good=False, text=str(error), needed=True)


def _disk_gb() -> float:
    return shutil.disk_usage(".").free / 1e9

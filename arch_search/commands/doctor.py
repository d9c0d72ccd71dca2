"""`arch-search doctor`: what this machine and site can and can't do, each line with what follows from it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arch_search.config import Llm
from arch_search.errors import JailError
from arch_search.jail import rungs
from arch_search.serving import catalogue, environment, machine
from arch_search.settings import load_config
from slurm import site


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `good` False means that something named in `text` will not work."""

    topic: str
    good: bool
    text: str


def run(options: argparse.Namespace) -> int:
    llm = load_config(options.overrides).llm
    if options.impossible == "vllm":
        reason = vllm_impossible(llm)
        print(reason, end="" if not reason else "\n")
        return 0
    findings = list(examine(llm))
    for finding in findings:
        print(f"{'ok ' if finding.good else 'no '} {finding.topic:<10} {finding.text}")
    return 0 if all(finding.good for finding in findings if finding.topic in NEEDED) else 1


NEEDED = ("python", "packages", "jail", "names")


def examine(llm: Llm) -> Iterator[Finding]:
    """All findings, cheap ones first; imports no torch and starts nothing."""
    yield Finding("python", sys.version_info >= (3, 11), f"{sys.version.split()[0]} (3.11 or later is needed)")
    missing = [name for name in ("torch", "h5py", "submitit", "openai") if importlib.util.find_spec(name) is None]
    yield Finding("packages", not missing, f"missing: {', '.join(missing)}; make install" if missing else "all there")
    yield _shadowed()
    cores, memory = os.cpu_count() or 1, machine.available_memory_gb()
    yield Finding("machine", True, f"{cores} cores, {memory:.0f} GB memory free, {_disk_gb():.0f} GB disk free here")
    gpu = machine.has_nvidia_gpu()
    yield Finding("gpu", gpu, "NVIDIA driver found" if gpu else "none: training and the model run on the CPU")
    yield _jail()
    reason = vllm_impossible(llm)
    ready = environment.is_complete(llm)
    yield Finding("vllm", not reason, reason or ("installed" if ready else "can be installed: arch-search prefetch"))
    yield _slurm()
    for extra, what in (
        ("lm_eval", "benchmarks"),
        ("fla", "flash-linear-attention layers"),
        ("triton", "fast kernels"),
    ):
        there = importlib.util.find_spec(extra) is not None
        yield Finding(extra, there, "installed" if there else f"not installed: no {what} (an extra)")


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
            return Finding("names", False, f"a foreign package {name} ({origin}) hides ours; use an own environment")
    return Finding("names", True, "no foreign package hides kernels, slurm, cognition_db or hydra_conf")


def _jail() -> Finding:
    try:
        return Finding("jail", True, f"programs run under {rungs.best_rung('auto')}")
    except JailError as error:
        return Finding("jail", False, str(error))


def _slurm() -> Finding:
    if not site.is_available():
        return Finding("slurm", False, "no sbatch, squeue or running controller here; slurm=local runs on this machine")
    limits = site.read_limits()
    return Finding(
        "slurm",
        True,
        f"version {limits.version}, arrays up to {limits.max_array_size}, "
        f"accounting {'on' if limits.accounting else 'off'}",
    )


def _disk_gb() -> float:
    return shutil.disk_usage(".").free / 1e9

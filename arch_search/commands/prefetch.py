"""`arch-search prefetch`: all that a campaign needs from a network, fetched now."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from arch_search.config import Llm
from arch_search.serving import catalogue, environment, machine, weights
from arch_search.settings import load_config

DISK_GB = 12  # environment, slices and weights at their peak


def run(options: argparse.Namespace) -> int:
    llm = load_config(options.overrides).llm
    if llm.kind != "vllm":
        print(f"llm={llm.kind} needs nothing to be fetched")
        return 0
    _require_room(llm)
    python = environment.ensure_environment(llm, say=print)
    folder = weights.find_weights(llm, say=print)
    print(f"model server: {python.parents[1]}; weights: {folder}")
    return 0


def _require_room(llm: Llm) -> None:
    """Say what is needed before anything is fetched; ModelServerError where it is not there."""
    known = catalogue.find_model(llm.model)
    if known is None or environment.is_complete(llm):
        return
    print(
        f"needed: {known.memory_gb:.0f} GB of memory and {DISK_GB} GB of disk; here: "
        f"{machine.available_memory_gb():.0f} GB and {shutil.disk_usage('.').free / 2**30:.0f} GB free"
    )
    machine.require_memory(known.memory_gb, f"serving {llm.model}")
    machine.require_disk(Path(llm.env_dir), DISK_GB, "the model server and its weights")

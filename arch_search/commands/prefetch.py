"""`arch-search prefetch`: all that a campaign needs from a network, fetched now."""

from __future__ import annotations

import argparse

from arch_search.serving import environment, weights
from arch_search.settings import load_config


def run(options: argparse.Namespace) -> int:
    llm = load_config(options.overrides).llm
    if llm.kind != "vllm":
        print(f"llm={llm.kind} needs nothing to be fetched")
        return 0
    python = environment.ensure_environment(llm, say=print)
    folder = weights.find_weights(llm, say=print)
    print(f"model server: {python.parents[1]}; weights: {folder}")
    return 0

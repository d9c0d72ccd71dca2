"""`arch-search prefetch`: all that a campaign needs from a network, fetched now, and the rest checked to be here."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from arch_search.config import Data, Llm
from arch_search.serving import catalogue, environment, machine, weights
from arch_search.settings import load_config
from arch_search.training import data

DISK_GB = 12  # environment, slices and weights at their peak
SERVED_KINDS = ("vllm", "vllm_job", "vllm_batch")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")


def run(options: argparse.Namespace) -> int:
    config = load_config(options.overrides)
    _check_corpus(config.data)
    if config.llm.kind not in SERVED_KINDS:
        print(f"llm={config.llm.kind} needs nothing to be fetched")
        return 0
    _require_room(config.llm)
    python = environment.ensure_environment(config.llm, say=print)
    folder = weights.find_weights(config.llm, say=print)
    print(f"model server: {python.parents[1]}")
    _print_weights(folder)
    return 0


def _check_corpus(settings: Data) -> None:
    """Made once and thrown away: each campaign makes its own from the same files, and names the same sha256."""
    with tempfile.TemporaryDirectory(prefix=".arch-search-corpus-", dir=".") as folder:
        corpus = data.prepare(settings, Path(folder))
        print(
            f"corpus: {corpus.description}: {corpus.train_tokens:,} training tokens, "
            f"{corpus.heldout_tokens:,} held out, sha256 {corpus.sha256[:16]}; "
            "read from this disk, the recall probe makes its own data"
        )


def _print_weights(folder: Path) -> None:
    """What lies there, with the checksum of the tokenizer; that of the weights was checked when they were fetched."""
    files = sorted(folder.glob("*.safetensors"))
    size_gb = sum(path.stat().st_size for path in files) / 1e9
    print(f"weights: {folder}, {size_gb:.1f} GB in {len(files)} files{_origin(folder)}")
    for name in _TOKENIZER:
        if (folder / name).exists():
            print(f"tokenizer: {name}, sha256 {weights.sha256_file(folder / name)[:16]}")


def _origin(folder: Path) -> str:
    try:
        facts = json.loads((folder / weights.MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ", somebody else's folder"
    return f", from {facts['source']}" + (f", sha256 {facts['sha256'][:16]} checked" if facts["sha256"] else "")


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

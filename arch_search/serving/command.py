"""The command line and the environment variables of `vllm serve`."""

from __future__ import annotations

import json
import math
from pathlib import Path

from arch_search.config import Llm
from arch_search.serving.environment import clean_environment
from arch_search.serving.machine import core_count

# unbounded whitespace between JSON tokens lets a small model run to max_tokens without an answer (vLLM issue 38696)
_STRUCTURED_OUTPUTS = {"backend": "xgrammar", "disable_any_whitespace": True}


def serve_command(llm: Llm, *, python: Path, weights: Path, name: str, host: str, port: int, on_gpu: bool) -> list[str]:
    """The command; the key is not in it, as any user of the machine can read command lines."""
    command = [str(python.parent / "vllm"), "serve", str(weights), "--served-model-name", name]
    # one place more than the driver fills, so that a probe never waits behind long replies
    command += ["--max-model-len", str(llm.context_tokens), "--max-num-seqs", str(llm.parallel_requests + 1)]
    command += ["--host", host, "--port", str(port), "--disable-uvicorn-access-log"]
    command += ["--structured-outputs-config", json.dumps(_STRUCTURED_OUTPUTS)]
    if llm.tensor_parallel > 1:
        command += ["--tensor-parallel-size", str(llm.tensor_parallel)]
    # without a GPU compiling takes most of a minute and gains nothing at these batch sizes
    return command if on_gpu else [*command, "--dtype", "bfloat16", "--enforce-eager"]


def serve_environment(llm: Llm, *, weights: Path, key: str, on_gpu: bool) -> dict[str, str]:
    """The server's environment variables: offline, no statistics sent, the key, and on a CPU its threads."""
    environment = clean_environment() | {
        "VLLM_API_KEY": key,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if on_gpu:
        return environment
    threads = str(llm.threads or core_count())
    return environment | {
        "OMP_NUM_THREADS": threads,
        # not pinned to cores and not spinning: training runs share them
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "GOMP_SPINCOUNT": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(cache_gib(llm, weights)),
    }


def cache_gib(llm: Llm, weights: Path) -> int:
    """GiB of key-value cache that let `parallel_requests` requests of full length run at once, at least 1."""
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    bytes_per_token: int = 2 * config["num_hidden_layers"] * heads * width * 2  # keys and values, two bytes each
    return max(1, math.ceil(bytes_per_token * llm.context_tokens * llm.parallel_requests / 2**30))

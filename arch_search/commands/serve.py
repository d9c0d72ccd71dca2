"""`arch-search serve`: the model server alone, until Ctrl-C."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from arch_search.errors import ConfigError, ModelServerError
from arch_search.serving import server
from arch_search.settings import load_config

_PROBE_EVERY_S = 30


def run(options: argparse.Namespace) -> int:
    llm = load_config(options.overrides).llm
    if llm.kind != "vllm":
        raise ConfigError(f"llm={llm.kind} starts no server; use llm=vllm")
    folder = Path(llm.cache_dir).absolute() / "server"
    folder.mkdir(parents=True, exist_ok=True)
    endpoint_file, key_file = folder / "endpoint.json", folder / "key"
    try:
        endpoint = server.start(
            llm, endpoint_file=endpoint_file, key_file=key_file, log_file=folder / "server.log", say=print
        )
        print(f"serving {endpoint.model} at {endpoint.base_url}, key in {key_file}; Ctrl-C stops it")
        print(
            f'use it: ARCH_SEARCH_LLM_KEY=$(cat "{key_file}") arch-search run llm=endpoint '
            f"llm.base_url={endpoint.base_url} llm.model={endpoint.model}"
        )
        while server.probe(endpoint, limit_s=llm.request_limit_s):
            time.sleep(_PROBE_EVERY_S)
    except KeyboardInterrupt:
        print("stopping")
        return 0
    finally:
        server.stop(endpoint_file)
    raise ModelServerError(f"the server at {endpoint.base_url} stopped answering; its log is {folder / 'server.log'}")

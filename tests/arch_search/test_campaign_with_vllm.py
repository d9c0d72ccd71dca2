"""A campaign whose model is a real vLLM server of ours, killed while it works."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import arch_search, archive, start

from arch_search.campaign import open_campaign
from arch_search.integrity import check_campaign

REPOSITORY = Path(__file__).parents[2]
pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_a_campaign_survives_the_kill_of_its_model_server_and_leaves_none_behind(tmp_path: Path) -> None:
    driver = start(
        "run", "campaign=smoke", "slurm=inline", "llm=vllm", "llm.model=smollm2-135m-instruct",
        f"llm.env_dir={REPOSITORY / '.venv-llm'}", f"llm.cache_dir={REPOSITORY / '.cache'}",
        "campaign.generations=1", "campaign.slots.grammar_edit=2", "campaign.slots.mutation=0", cwd=tmp_path,
    )  # fmt: skip
    folder = tmp_path / "campaigns" / "smoke-001"
    try:
        _wait_until(lambda: (folder / "endpoint.json").exists(), driver)
        while_loading = _kill_server(folder)
        # and again once it has answered
        _wait_until(lambda: (folder / "calls.jsonl").exists() and _pid(folder) not in (None, while_loading), driver)
        _kill_server(folder)
        assert driver.wait(timeout=800) == 0, (tmp_path / "out.txt").read_text()[-3000:]
    finally:
        if driver.poll() is None:
            driver.kill()
    contents = archive(tmp_path)
    assert any(one.proposal.reply_sha256 for one in contents.tries), "the model was asked"
    assert any(one.arm == "evolve" for one in contents.candidates)
    assert not (folder / "endpoint.json").exists()
    assert check_campaign(open_campaign(folder)) == []


def _pid(folder: Path) -> int | None:
    file = folder / "endpoint.json"
    return json.loads(file.read_text())["pid"] if file.exists() else None


def _kill_server(folder: Path) -> int:
    pid = _pid(folder)
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)
    return pid


def test_a_stop_in_the_middle_of_a_call_leaves_no_model_server_behind(tmp_path: Path) -> None:
    """The calls that break when the server is ended must not start it again."""
    before = _servers()
    driver = start(
        "run", "campaign=smoke", "slurm=inline", "llm=vllm", "llm.model=smollm2-135m-instruct",
        f"llm.env_dir={REPOSITORY / '.venv-llm'}", f"llm.cache_dir={REPOSITORY / '.cache'}",
        "campaign.generations=1", "campaign.baselines=[]", "campaign.slots.whole_module=6", "campaign.tries_per_slot=9",
        cwd=tmp_path,
    )  # fmt: skip
    folder = tmp_path / "campaigns" / "smoke-001"
    try:
        _wait_until(lambda: (folder / "calls.jsonl").exists(), driver)
        assert _servers() - before
        assert arch_search("stop", str(folder), cwd=tmp_path).returncode == 0
        assert driver.wait(timeout=60) == 0, (tmp_path / "out.txt").read_text()[-3000:]
    finally:
        if driver.poll() is None:
            driver.kill()
    time.sleep(2)
    assert _servers() == before
    assert not (folder / "endpoint.json").exists()


def _servers() -> set[int]:
    """Processes that serve a model."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if b"--served-model-name" in (folder / "cmdline").read_bytes().split(b"\0"):
                found.add(int(folder.name))
    return found


def _wait_until(is_so: Callable[[], bool], driver: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 600
    while not is_so():
        assert driver.poll() is None
        assert time.monotonic() < until
        time.sleep(0.2)

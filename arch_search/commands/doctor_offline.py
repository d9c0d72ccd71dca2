"""Proof that nothing is fetched: the parts of a campaign run in a network namespace that has no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from arch_search.commands.findings import Finding
from arch_search.config import Config, Llm
from arch_search.serving import environment, weights

_TRY_LIMIT_S = 20
_CAMPAIGN_LIMIT_S = 600
_MODEL_LIMIT_S = 300
# the search without a model: everything but replies is done, from the corpus to the report
_CAMPAIGN = (
    *("campaign=smoke", "slurm=inline", "campaign.generations=1", "campaign.baselines=[]"),
    *("campaign.seeds_per_candidate=1", "campaign.reference_seeds=1"),
    *("campaign.slots.grammar_edit=0", "campaign.slots.grammar_program=0"),
    *("campaign.slots.mutation=1", "campaign.slots.placebo=0"),
    *("roles.analyst_enabled=false", "roles.judge_enabled=false"),
)
_NO_ROUTE = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=3)"  # an address that no network has
# the tokenizer and the model's configuration, as the server reads them, by the python of vLLM's environment
_LOAD = """
import sys
from transformers import AutoConfig, AutoTokenizer
config, tokenizer = (part.from_pretrained(sys.argv[1]) for part in (AutoConfig, AutoTokenizer))
print(config.model_type, len(tokenizer), len(tokenizer("S = S * a + k v^T")["input_ids"]))
"""


def prove(config: Config, overrides: Sequence[str]) -> Iterator[Finding]:
    """Run a whole small campaign with the data of `overrides`, and load the model's files, without a network."""
    cut_off, reason = without_network()
    if not cut_off:
        yield Finding(topic="offline", good=False, text=f"can't be proved here: {reason}", needed=True)
        return
    yield Finding(topic="offline", good=True, text=f"no network inside {cut_off[0]}: a connection there fails at once")
    yield _campaign(cut_off, [one for one in overrides if one.startswith(("data", "jail"))])
    yield _model(cut_off, config.llm)


def without_network() -> tuple[list[str], str]:
    """Words before a command that take its network away, checked to do so; or none, and why each way fails."""
    ways = (
        ["unshare", "--map-root-user", "--net"],
        ["bwrap", "--dev-bind", "/", "/", "--unshare-net", "--die-with-parent"],
    )
    reasons = []
    for way in ways:
        reason = _why_not(way)
        if not reason:
            return way, ""
        reasons.append(f"{way[0]}: {reason}")
    return [], "; ".join(reasons)


def _why_not(way: list[str]) -> str:
    if shutil.which(way[0]) is None:
        return "not installed"
    done = _run([*way, sys.executable, "-c", _NO_ROUTE], limit_s=_TRY_LIMIT_S, cwd="/")
    if "Network is unreachable" in done:
        return ""
    return done.strip().splitlines()[-1] if done.strip() else "the namespace still has a network"


def _campaign(cut_off: list[str], overrides: list[str]) -> Finding:
    """The data of the user stand in front, so that they are those that are read without a network."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="arch-search-offline-") as folder:
        words = [*cut_off, sys.executable, "-m", "arch_search.cli", "run", *_CAMPAIGN, *_absolute(overrides)]
        said = _run(words, limit_s=_CAMPAIGN_LIMIT_S, cwd=folder)
        report = Path(folder) / "campaigns" / "smoke-001" / "report.html"
        wall_s = time.monotonic() - began
        if not report.exists():
            text = f"a small campaign without a model failed: {environment.last_line(said)}"
            return Finding(topic="offline", good=False, text=text, needed=True)
    text = f"corpus, checks, jail, training, merge and report: a whole small campaign without a model in {wall_s:.0f} s"
    return Finding(topic="offline", good=True, text=text, needed=True)


def _model(cut_off: list[str], llm: Llm) -> Finding:
    """Nothing but `prefetch` may fetch: with its files in place they load, without them this says so."""
    if not llm.kind.startswith("vllm"):
        return Finding(topic="offline", good=True, text=f"model: llm={llm.kind} has no files of its own here")
    folder = Path(llm.weights).expanduser() if llm.weights else weights.weights_folder(llm)
    if not environment.is_complete(llm) or not (folder / "config.json").exists():
        return Finding(topic="offline", good=False, text=f"model: {llm.model} is not here; arch-search prefetch")
    python = str(environment.environment_python(llm))
    said = _run([*cut_off, python, "-c", _LOAD, str(folder)], limit_s=_MODEL_LIMIT_S, cwd="/")
    words = said.split()
    if len(words) < 3 or not words[-1].isdigit():
        text = f"model: {folder} does not load: {environment.last_line(said)}"
        return Finding(topic="offline", good=False, text=text)
    size_gb = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9
    text = f"model: configuration and tokenizer load ({words[-3]}, {words[-2]} tokens); weights {size_gb:.1f} GB"
    return Finding(topic="offline", good=True, text=text)


def _absolute(overrides: list[str]) -> list[str]:
    """data.path is given from where the user stands."""
    return [
        f"data.path={Path(one.partition('=')[2]).expanduser().absolute()}" if one.startswith("data.path=") else one
        for one in overrides
    ]


def _run(command: list[str], *, limit_s: float, cwd: str) -> str:
    """All that the command printed, or why it could not run."""
    # the python of vLLM's environment must not find our packages
    own = dict(os.environ) if sys.executable in command else environment.clean_environment()
    variables = own | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=variables, capture_output=True, text=True, errors="replace", timeout=limit_s
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout + done.stderr

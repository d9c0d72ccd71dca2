"""Rows: the model server, a job of its own with a real vLLM, is killed, hangs, or comes to its time limit."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from arch_search.paths import CampaignPaths
from arch_search.serving import server
from arch_search.serving.endpoint import ServerRecord, read_record
from tests.slurm_cluster.faults.bench import Bench, Facts, Trial
from tests.slurm_cluster.faults.processes import descendants, kill
from tests.slurm_cluster.model import ENVIRONMENT, MODEL, WEIGHTS, model_of

# many requests and hardly any training; what a small model writes is mostly refused, which is not looked at
ASKING = (
    *("llm.context_tokens=2048", "llm.request_limit_s=60"),
    *("llm.job.memory_gb=7", "llm.job.cpus_per_task=2", "llm.threads=1", "llm.parallel_requests=2"),
    *("campaign.slots.grammar_edit=4", "campaign.tries_per_slot=4", "campaign.seeds_per_candidate=1"),
    *("campaign.reference_seeds=1", "stage.steps=6", "roles.analyst_enabled=false", "roles.researcher.max_tokens=256"),
)
LIMIT_S = 1500


def model_killed(bench: Bench) -> Facts:
    """SIGKILL of the server while it is asked."""
    return _with(bench, _kill_server)


def model_hung(bench: Bench) -> Facts:
    """The server answers /health and gives no token any more."""
    return _with(bench, _hang_server)


def model_at_its_limit(bench: Bench) -> Facts:
    """The time limit of the server's job comes while it is asked."""
    # on an idle machine the successor is ready three minutes after the start: there must be something left to ask
    longer = ("campaign.slots.grammar_edit=20", "campaign.tries_per_slot=6")
    limit = ("llm.job.timeout_min=4", "llm.job.replace_before_min=2")
    return _with(bench, lambda trial: None, *longer, *limit)


def _with(bench: Bench, harm: Callable[[Trial], None], *overrides: str) -> Facts:
    """A campaign whose first server comes to harm; it ends on another one."""
    assert ENVIRONMENT.is_dir(), f"run: arch-search prefetch llm=vllm llm.model={MODEL}"
    assert WEIGHTS.is_dir(), f"run: arch-search prefetch llm=vllm llm.model={MODEL}"
    trial = Trial(bench, *model_of(bench.cluster), *ASKING, *overrides, is_prepared=False)
    with trial.running():
        bench.wait_for(
            lambda: trial.is_over or _ready_servers(trial) > 0, "the first server was not ready", limit_s=LIMIT_S
        )
        begun, before = time.monotonic(), _calls(trial)
        bench.wait_for(lambda: trial.is_over or _calls(trial) > before, "the server was not asked", limit_s=300)
        assert not trial.is_over, f"the campaign was over too early: {trial.said()[-800:]}"
        harm(trial)
        at_harm = _calls(trial)
        bench.wait_for(
            lambda: trial.is_over or (_ready_servers(trial) > 1 and _calls(trial) > at_harm),
            "no other server took over",
            limit_s=LIMIT_S,
        )
        seconds = time.monotonic() - begun
        trial.finish(limit_s=LIMIT_S)
    trial.check_clean()
    assert _ready_servers(trial) > 1, f"no second server became ready: {trial.said()[-800:]}"
    bench.wait_for(lambda: not bench.queued(), "a job of a server is left in the queue")
    return {"servers": _ready_servers(trial), "calls": _calls(trial), "took over after s": seconds, "jobs left": 0}


def _calls(trial: Trial) -> int:
    log = trial.folder / "calls.jsonl"
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def _ready_servers(trial: Trial) -> int:
    """Servers that once gave a token."""
    return len(list(_paths(trial).servers.glob("*/endpoint.json")))


def _paths(trial: Trial) -> CampaignPaths:
    return CampaignPaths(trial.folder)


def _kill_server(trial: Trial) -> None:
    kill(_serving(trial).pid)


def _hang_server(trial: Trial) -> None:
    """All processes of vLLM but the one that answers HTTP stand still."""
    record = _serving(trial)
    for pid in descendants(record.pid):
        kill(pid, signal.SIGSTOP)
    assert server.is_healthy(record.endpoint), "the hanging server does not answer /health"


def _serving(trial: Trial) -> ServerRecord:
    """The server that answers now; its process is the one that answers HTTP.

    On a busy machine the first server may have been too slow for the driver, so that another one answers by now.
    """
    paths = _paths(trial)
    ready = sorted(file.parent.name for file in paths.servers.glob("*/endpoint.json"))
    records = [read_record(paths.server(name).process) for name in reversed(ready)]
    record = next((one for one in records if one is not None), None)
    assert record is not None, f"none of the servers {', '.join(ready)} has recorded its process"
    return record

"""Drives model servers that are Slurm jobs, as the user of the cluster: `drive_fleet.py SCENARIO OVERRIDES...`.

Prints what happened as lines, and one JSON object as the last of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from arch_search.agents.call_log import CallLog
from arch_search.agents.client import OpenAiClient
from arch_search.batch_client import BatchClient, cancel_batches
from arch_search.campaign import Campaign, start_or_continue
from arch_search.config import Sampling
from arch_search.errors import ArchSearchError, ReplyPendingError
from arch_search.fleet import Fleet, Pace
from arch_search.protocols import ModelRequest
from arch_search.serving import server
from arch_search.serving.endpoint import read_job_endpoint, read_record
from arch_search.settings import load_config

# a token may take seconds on a machine whose cores are all busy
PACE = Pace(step_s=0.5, probe_every_s=3.0, probe_again_s=1.0, probe_limit_s=20.0)
_LIMIT_S = 600.0


def main() -> None:
    campaign = start_or_continue(load_config(sys.argv[2:]), command=["test"], base=Path("campaigns"))
    began = time.monotonic()

    def say(event: str) -> None:
        print(f"{time.monotonic() - began:6.1f} {event}", flush=True)

    try:
        answer = _SCENARIOS[sys.argv[1]](campaign, say)
    except ArchSearchError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


def _servers(campaign: Campaign, say: Callable[[str], None]) -> dict[str, Any]:
    """One after the other: a server that is killed, one that hangs, one whose time limit comes near, a new driver."""
    seen: dict[str, Any] = {}
    fleet = Fleet(campaign, say=say, pace=PACE)
    fleet.start()
    seen["first_reason"] = fleet.waiting()
    client = _client(campaign, fleet)
    seen["first"] = _asked(client, fleet, "first")
    killed = _leader(campaign, "r0-0001")
    os.kill(killed, signal.SIGKILL)
    seen["after_kill"] = _asked(client, fleet, "after the kill")
    hung = _leader(campaign, "r0-0002")
    for member in _session(hung)[1:]:
        os.kill(member, signal.SIGSTOP)
    seen["hung_is_healthy"] = _is_healthy(campaign, "r0-0002")
    seen["after_hang"] = _asked(client, fleet, "after the hang")
    fleet.stop()
    old = _leader(campaign, "r0-0003")

    fleet = Fleet(_with_limit_near(campaign, "r0-0003"), say=say, pace=PACE)
    fleet.start()
    client = _client(campaign, fleet)
    seen["found_again"] = _asked(client, fleet, "found again")
    seen["successor_came"] = _until(lambda: _ready(fleet) == ["r0-0004"])
    fleet.stop()
    seen["after_replacing"] = _asked(client, fleet, "after replacing")
    new = _leader(campaign, "r0-0004")
    Fleet(campaign, say=say, pace=PACE).release()
    seen["queue_is_empty"] = _until(lambda: not _queue())
    seen["nothing_left"] = _until(lambda: not [pid for one in (killed, hung, old, new) for pid in _session(one)])
    return seen


def _with_limit_near(campaign: Campaign, name: str) -> Campaign:
    """The campaign with a setting by which the time of this server, but not of a younger one, is nearly over."""
    served = read_job_endpoint(campaign.paths.server(name).endpoint)
    assert served is not None
    near = replace(campaign.config.llm.job, replace_before_min=(served.ends_unix - time.time()) / 60 + 0.01)
    config = replace(campaign.config, llm=replace(campaign.config.llm, job=near))
    fields = {field: getattr(campaign, field) for field in Campaign.__dataclass_fields__}
    return Campaign(**{**fields, "config": config})


def _limit(campaign: Campaign, say: Callable[[str], None]) -> dict[str, Any]:
    """Refusals: how a campaign is told that its servers cannot be had."""
    fleet = Fleet(campaign, say=say, pace=PACE)
    fleet.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        reason = fleet.waiting()
        if "waits" in reason:
            fleet.release()
            return {"reason": reason, "queue_is_empty": _until(lambda: not _queue())}
        time.sleep(0.2)
    return {"reason": fleet.waiting()}


def _batch(campaign: Campaign, say: Callable[[str], None]) -> dict[str, Any]:
    """Requests of several threads, one that the server refuses, and a second driver that finds the replies."""
    log = CallLog(campaign.paths.calls, campaign.paths.text)
    client = BatchClient(campaign, log, say=say, quiet_s=1.0)
    answers: dict[str, str] = {}

    def ask(key: str, text: str) -> None:
        try:
            answers[key] = client.complete(_request(key, text)).text
        except ArchSearchError as error:
            answers[key] = f"{type(error).__name__}: {error}"

    asked = {"a": "Write a word.", "b": "Write two words.", "c": "word " * 3000}
    threads = [threading.Thread(target=ask, args=item) for item in asked.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LIMIT_S)
    log.close()
    again = {call.key: call for call in CallLog(campaign.paths.calls, campaign.paths.text).calls()}
    return {
        "answers": answers,
        "kept": {key: not again[key].refused for key in asked},
        "jobs": [path.name for path in campaign.paths.batches.iterdir()],
    }


def _cancelled(campaign: Campaign, say: Callable[[str], None]) -> dict[str, Any]:
    """A batch that waits in the queue is cancelled; what it lacks is asked in a new one."""
    client = BatchClient(campaign, CallLog(campaign.paths.calls, campaign.paths.text), say=say, quiet_s=0.2)
    threading.Thread(target=client.complete, args=[_request("a", "Write a word.")], daemon=True).start()
    _until(lambda: bool(_queue()))
    first = _queue()
    cancel_batches(campaign, say=say)
    _until(lambda: _queue() not in ("", first))
    second = _queue()
    subprocess.run(["scancel", "--me"], check=True)
    batches = sorted(path.name for path in campaign.paths.batches.iterdir())
    return {"first": first.split(), "second": second.split(), "batches": batches}


def _ticks(campaign: Campaign, say: Callable[[str], None]) -> dict[str, Any]:
    """Two ticks ask the same while its job waits in the queue, a third one after that."""
    log = CallLog(campaign.paths.calls, campaign.paths.text)
    said, queues = [], []
    for _ in range(2):
        client = BatchClient(campaign, log, say=say, quiet_s=0.2, comes_back=True)
        try:
            client.complete(_request("a", "Write a word."))
        except ReplyPendingError as pending:
            said.append(str(pending))
        queues.append(_queue().splitlines())
    subprocess.run(["scontrol", "update", f"jobid={queues[0][0].split()[0]}", "starttime=now"], check=True)
    _until(lambda: not _queue())
    reply = BatchClient(campaign, log, say=say, comes_back=True).complete(_request("a", "Write a word."))
    return {"said": said, "jobs": [len(queue) for queue in queues], "tokens": reply.reply_tokens}


def _client(campaign: Campaign, fleet: Fleet) -> OpenAiClient:
    return OpenAiClient(fleet, llm=campaign.config.llm, log=CallLog(campaign.paths.calls, campaign.paths.text))


def _asked(client: OpenAiClient, fleet: Fleet, key: str) -> dict[str, Any]:
    """Ask one thing; who was ready when the answer came, and after how long."""
    began = time.monotonic()
    reply = client.complete(_request(key, "Write a word."))
    client._log.close()
    return {"tokens": reply.reply_tokens, "ready": _ready(fleet), "seconds": round(time.monotonic() - began, 1)}


def _request(key: str, text: str) -> ModelRequest:
    return ModelRequest(
        key=key,
        role="researcher",
        messages=({"role": "user", "content": text},),
        sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=8),
    )


def _ready(fleet: Fleet) -> list[str]:
    return [one.name for one in fleet._servers.values() if one.takes_requests]


def _leader(campaign: Campaign, name: str) -> int:
    record = read_record(campaign.paths.server(name).process)
    assert record is not None
    return record.pid


def _is_healthy(campaign: Campaign, name: str) -> bool:
    record = read_record(campaign.paths.server(name).process)
    assert record is not None
    return server.is_healthy(record.endpoint)


def _session(leader: int) -> list[int]:
    """Living processes of the session, its leader first."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return sorted(found, key=lambda pid: pid != leader)


def _queue() -> str:
    done = subprocess.run(["squeue", "--noheader", "--me"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _until(is_true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline:
        if is_true():
            return True
        time.sleep(0.3)
    return False


_SCENARIOS = {"servers": _servers, "limit": _limit, "batch": _batch, "cancelled": _cancelled, "tick": _ticks}

if __name__ == "__main__":
    main()

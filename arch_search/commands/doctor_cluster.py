"""The cluster as doctor sees it: limits, what Slurm would refuse, and one probe job for each partition."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arch_search.commands.doctor_node import write_json
from arch_search.commands.findings import Finding
from arch_search.config import Config
from arch_search.launching import module_command, refused_requests, unit_resources, worker_environment
from slurm import site
from slurm.client import least_poll_s, run_client
from slurm.errors import SlurmError, UnavailableError
from slurm.service import ServiceJob, ServiceLauncher, ServiceState

TAKEN = "Slurm would take the jobs of a campaign with these settings"
PROBE_MIN = 5
_LOOK_S = 0.1  # for files of the nodes
_CONNECT_LIMIT_S = 3.0
_CLOCK_LIMIT_S = 5.0

Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class _Probe:
    """One probe job. `facts` is what the node reported; `problem` says why there will be no report."""

    partition: str
    job: ServiceJob | None = None
    submitted: float = 0.0
    started_s: float | None = None
    reachable: bool = False
    waiting: str = ""
    facts: dict[str, Any] | None = None
    problem: str = ""
    is_broken: bool = False  # the problem is not only one of waiting

    @property
    def is_open(self) -> bool:
        return self.facts is None and not self.problem


def limits(config: Config) -> Iterator[Finding]:
    """What the site allows, from scontrol and, where it may be asked, sacctmgr; nothing is submitted."""
    reason = site.why_unavailable()
    if reason is not None:
        yield Finding(topic="slurm", good=False, text=f"{reason}; slurm=local runs on this machine")
        return
    settings = config.slurm
    found = site.read_user_limits(
        site.read_limits(), account=settings.account, qos=settings.qos, partition=settings.partition
    )
    submit = f"{found.max_submit_jobs} jobs in the queue at once ({found.submit_source})"
    told = [
        f"version {found.version}",
        f"arrays up to {found.max_array_size}",
        f"accounting {'on' if found.accounting else 'off'}",
        submit if found.max_submit_jobs is not None else "no limit of jobs in the queue known",
    ]
    yield Finding(topic="slurm", good=True, text=", ".join(told))
    yield from disabled_entries()


def disabled_entries() -> Iterator[Finding]:
    """Entries of scrontab that Slurm has switched off: cancelling such a job disables its entry for good."""
    if shutil.which("scrontab") is None:
        return
    try:
        text = run_client(["scrontab", "-l"])
    except UnavailableError:
        return
    for line in text.splitlines():
        if re.match(r"#\s*DISABLED", line) and "arch-search" in line:
            entry = re.sub(r"^#\s*DISABLED:?\s*", "", line)
            text = f"disabled, since its job was cancelled: {entry}; take the mark away with scrontab -e"
            yield Finding(topic="scrontab", good=False, text=text)


def refusals(config: Config) -> Iterator[Finding]:
    """What Slurm would refuse of a campaign with these settings; nothing where it would take all of it."""
    for refusal in refused_requests(config.slurm, config.llm.job, config.llm.kind):
        yield Finding(topic="requests", good=False, text=refusal, needed=True)


def nodes(config: Config, *, wait_s: float, say: Say) -> Iterator[Finding]:
    """One probe job for each chosen partition, or for each that is up; waits at most `wait_s` for all of them."""
    folder = Path(tempfile.mkdtemp(prefix=".arch-search-probe-", dir="."))
    try:
        probes = [_Probe(partition=name) for name in _partitions(config)]
        launcher = ServiceLauncher(poll_s=least_poll_s())
        try:
            for probe in probes:
                _submit(probe, launcher, config, folder.absolute())
            _wait(probes, launcher, folder, wait_s=wait_s, say=say)
        finally:
            for probe in probes:
                if probe.job is not None and probe.facts is None:
                    launcher.cancel(probe.job)
        for probe in probes:
            yield from _report(probe, config, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _partitions(config: Config) -> list[str]:
    if config.slurm.partition:
        return config.slurm.partition.split(",")
    rows = [line.split("|") for line in run_client(["sinfo", "--noheader", "--format=%R|%a"]).splitlines()]
    return list(dict.fromkeys(row[0] for row in rows if row[-1] == "up"))


def _submit(probe: _Probe, launcher: ServiceLauncher, config: Config, folder: Path) -> None:
    settings = config.slurm
    asked = replace(unit_resources(settings), partition=probe.partition, timeout_min=PROBE_MIN, mail_type=None)
    command = module_command(
        settings, [folder], "arch_search.commands.doctor_node", str(folder), _file_name(probe.partition)
    )
    probe.submitted = time.monotonic()
    try:
        probe.job = launcher.submit(
            command,
            resources=asked,
            folder=folder,
            name="asx-probe",
            comment=f"asx-probe-{folder.name}-{probe.partition}",
            environment=worker_environment(1),
        )
    except SlurmError as error:
        probe.problem, probe.is_broken = str(error), True


def _wait(probes: list[_Probe], launcher: ServiceLauncher, folder: Path, *, wait_s: float, say: Say) -> None:
    """Until every probe has reported or can't; each new reason of waiting is said once.

    One that has not started after `wait_s` is given up; one that has started is waited for as long as it may run.
    """
    began = time.monotonic()
    while waited_for := [probe for probe in probes if not _is_settled(probe, began, wait_s=wait_s)]:
        for probe in waited_for:
            _look_at_files(probe, folder)
        for probe in waited_for:
            if probe.is_open:
                _look_at_queue(probe, launcher, folder, say)
        time.sleep(_LOOK_S)


def _is_settled(probe: _Probe, began: float, *, wait_s: float) -> bool:
    """Whether nothing more is waited for; a probe that takes too long is given a problem here."""
    waited_s = time.monotonic() - began
    if probe.is_open and probe.started_s is None and waited_s > wait_s:
        probe.problem = f"not started within {wait_s:g} s: {probe.waiting or 'just submitted'}; --wait-s=N waits longer"
    elif probe.is_open and probe.started_s is not None and waited_s > probe.started_s + PROBE_MIN * 60:
        probe.problem, probe.is_broken = f"started, but did not report within {PROBE_MIN} minutes", True
    return not probe.is_open


def _look_at_files(probe: _Probe, folder: Path) -> None:
    name = _file_name(probe.partition)
    there = set(os.listdir(folder))
    if f"{name}.hello.json" in there and probe.started_s is None:
        seen = time.time()
        probe.started_s, probe.waiting = time.monotonic() - probe.submitted, ""
        write_json(folder / f"{name}.answer.json", {"seen": seen, "answered": time.time()})
        hello = json.loads((folder / f"{name}.hello.json").read_text())
        try:
            socket.create_connection((hello["host"], hello["port"]), timeout=_CONNECT_LIMIT_S).close()
            probe.reachable = True
        except OSError:
            probe.reachable = False
    if f"{name}.facts.json" in there:
        probe.facts = json.loads((folder / f"{name}.facts.json").read_text())


def _look_at_queue(probe: _Probe, launcher: ServiceLauncher, folder: Path, say: Say) -> None:
    if probe.job is None:
        return
    status = launcher.state(probe.job)
    if status.state is ServiceState.HELD:
        probe.problem = status.reason
    elif status.state is ServiceState.ENDED:
        # what the job wrote last may be seen here only now
        _look_at_files(probe, folder)
        if probe.facts is None:
            probe.problem, probe.is_broken = f"{status.reason}; it said: {_last_line(probe.job)}", True
    elif status.state is not ServiceState.RUNNING and status.reason != probe.waiting and probe.started_s is None:
        probe.waiting = status.reason
        say(f"    {probe.partition}: {status.reason}")


def _last_line(job: ServiceJob) -> str:
    try:
        lines = job.log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return "nothing that can be read here"
    return lines[-1] if lines else "nothing"


def _report(probe: _Probe, config: Config, folder: Path) -> Iterator[Finding]:
    topic = f"node {probe.partition}"
    if probe.facts is None:
        yield Finding(topic=topic, good=False, text=probe.problem, needed=probe.is_broken)
        return
    facts = probe.facts
    imports = facts["imports"]
    loaded = imports["problem"] or f"torch {imports['torch']}, h5py {imports['h5py']}"
    text = f"{facts['host']} started after {probe.started_s or 0:.1f} s: Python {facts['python']}, {loaded}"
    yield Finding(topic=topic, good=not imports["problem"], text=text, needed=True)
    yield _gpu(topic, facts, is_asked=bool(config.slurm.gres or config.slurm.gpus_per_task))
    yield _jail(topic, facts["rungs"])
    yield _disks(topic, facts["spaces"])
    yield _files(topic, facts)
    outside = "reaches the internet" if facts["outside"] else "no way to the internet, and none is needed"
    inside = "can" if probe.reachable else "can't (llm=vllm_job needs that; llm=vllm_batch does not)"
    yield Finding(topic=topic, good=True, text=f"network: {outside}; this host {inside} connect to the node")


def _gpu(topic: str, facts: dict[str, Any], *, is_asked: bool) -> Finding:
    gpus, imports = facts["gpus"], facts["imports"]
    seen = f"torch sees {imports['devices']}" if imports.get("cuda") else "torch sees none"
    if not gpus["lines"]:
        missing = f"GPU: none ({gpus['problem'] or 'nvidia-smi shows none'}); {seen}"
        return Finding(topic=topic, good=not is_asked, text=missing if is_asked else "GPU: none asked for, none seen")
    return Finding(topic=topic, good=bool(imports.get("cuda")), text=f"GPU: {'; '.join(gpus['lines'])}; {seen}")


def _jail(topic: str, rungs: dict[str, str]) -> Finding:
    works = [rung for rung, reason in rungs.items() if not reason]
    reasons = "; ".join(f"{rung}: {reason}" for rung, reason in rungs.items() if reason)
    if not works:
        return Finding(topic=topic, good=False, text=f"jail: no rung works ({reasons})", needed=True)
    return Finding(topic=topic, good=True, text=f"jail: {works[0]}{f' ({reasons})' if reasons else ''}")


def _disks(topic: str, spaces: list[dict[str, Any]]) -> Finding:
    told = []
    for space in spaces:
        if space["free_gb"] is None:
            told.append(f"{space['name']} {'not set' if not space['path'] else 'not there'}")
        else:
            cut = "" if space["writable"] else ", not writable"
            told.append(f"{space['name']} {space['free_gb']:.0f} GB free{cut}")
    shared = next(space for space in spaces if space["name"] == "campaigns")
    return Finding(topic=topic, good=shared["writable"], text=f"disk: {', '.join(told)}", needed=True)


def _files(topic: str, facts: dict[str, Any]) -> Finding:
    ahead, way = facts["clock_ahead_s"], facts["there_and_back_s"]
    if ahead is None:
        return Finding(
            topic=topic, good=False, text="files: what this host wrote was not seen on the node", needed=True
        )
    text = f"files: there and back in {way:.2f} s; clock {ahead:+.2f} s (within {way / 2:.2f} s)"
    return Finding(topic=topic, good=abs(ahead) - way / 2 < _CLOCK_LIMIT_S, text=text)


def _file_name(partition: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", partition)

"""Examining a program of the zoo: the real checking child in a fork, so that torch is imported once for all.

What the machine must be protected from goes through the real jail instead.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from arch_search.admission import child
from arch_search.admission.request import (
    BYTE_VOCAB,
    PROGRAM_FILE,
    REPORT_FILE,
    REQUEST_FILE,
    ChildReport,
    Request,
)
from arch_search.admission.runner import AdmissionOrder, admit
from arch_search.domains import domain_named
from arch_search.settings import load_config
from cognition_db.records import Verdict, from_json, to_json

_MEMORY_BYTES = 3 * 2**30
_WALL_FACTOR = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one program ended: its verdicts, whether it was ended from outside, and its CPU seconds."""

    verdicts: tuple[Verdict, ...]
    killed: bool
    cpu_s: float
    class_name: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """`CHECK` of a refusal, else `mark CHECK` of every verdict that did not pass; `killed` beside them."""
        refused = [one.check for one in self.verdicts if one.refuses]
        marks = [f"mark {one.check}" for one in self.verdicts if one.outcome != "passed"]
        return (*(["killed"] if self.killed else []), *(refused or marks))

    @property
    def kind(self) -> str:
        if self.killed:
            return "killed"
        if any(one.refuses for one in self.verdicts):
            return "refused"
        return "marked" if any(one.outcome != "passed" for one in self.verdicts) else "clean"


def request_for(class_name: str | None = None, *, exempt_cost: bool = False) -> Request:
    """What the checking child is asked for by the default settings, without a count of parameters to match."""
    config = load_config([])
    return Request(
        class_name=class_name,
        contract=domain_named(config.domain.name).contract,
        settings=config.admission,
        stage=config.stage,
        target_parameters=None,
        exempt_cost=exempt_cost,
        vocab=BYTE_VOCAB,
    )


def examined_in_fork(text: str, folder: Path, *, limit_s: int, exempt_cost: bool = False) -> Outcome:
    """The outcome for one program; `folder` is made for it."""
    folder.mkdir()
    (folder / PROGRAM_FILE).write_text(text)
    (folder / REQUEST_FILE).write_text(json.dumps(to_json(request_for(exempt_cost=exempt_cost))))
    pid = os.fork()
    if pid == 0:
        _run_child(folder, limit_s)
    status, cpu_s = _waited(pid, _WALL_FACTOR * limit_s)
    try:
        report = from_json(ChildReport, json.loads((folder / REPORT_FILE).read_text()))
    except (OSError, ValueError):
        report = ChildReport(complete=False, doing="start", verdicts=())
    refused = any(one.refuses for one in report.verdicts)
    return Outcome(
        verdicts=report.verdicts,
        killed=not refused and (status != 0 or not report.complete),
        cpu_s=cpu_s,
        class_name=report.class_name,
    )


def examined_in_jail(text: str, folder: Path, *, limit_s: int) -> Outcome:
    config = load_config([])
    order = AdmissionOrder(
        program=text,
        class_name="",
        contract=domain_named(config.domain.name).contract,
        settings=config.admission,
        stage=config.stage,
        target_parameters=None,
        exempt_cost=False,
        jail=config.jail,
        known_fingerprints={},
        own_rung=False,
    )
    report = admit(order, workdir=folder)
    ended = {"time", "memory", "processes", "crash", "report"}
    killed = any(one.refuses and one.check in ended for one in report.verdicts)
    return Outcome(verdicts=report.verdicts, killed=killed, cpu_s=report.seconds, class_name=report.class_name)


def _run_child(folder: Path, limit_s: int) -> None:
    """In the fork: the limits of a jail that need no jail, then the checking child; never returns."""
    code = 1
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nowhere, descriptor)
        sys.stdout = sys.stderr = os.fdopen(1, "w")
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_BYTES, used + _MEMORY_BYTES))
        signal.alarm(0)
        os.chdir(folder)
        code = child.main(folder)
    finally:
        os._exit(code)


def _waited(pid: int, wall_s: float) -> tuple[int, float]:
    """Exit status and CPU seconds of the fork, killed once its time is over."""
    end = time.monotonic() + wall_s
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage.ru_utime + usage.ru_stime
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            end = float("inf")
        time.sleep(0.005)

"""Admission through the real jail: whatever a program does to its checker, the driver gets one clear verdict."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from arch_search.admission.runner import AdmissionOrder, AdmissionReport, admit
from arch_search.config import Jail
from arch_search.domains import domain_named
from arch_search.errors import JailError
from arch_search.jail import best_rung
from arch_search.settings import load_config
from cognition_db.records import Verdict

PROGRAM = """
import torch
from torch import nn


class DeltaNet(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        self.a, self.b = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def forward(self, x):
        {body}
        return torch.cumsum(torch.sigmoid(self.a(x)) * self.b(x), 1)
"""
# bounded by themselves, so that a failing jail costs a test and not the machine
HOSTILE = {
    "hangs": ("time", "allowed are", "while True: pass"),
    "eats memory": (
        "memory",
        "MB of memory",
        "import time; self.kept = []\n"
        "        for _ in range(400): self.kept.append(bytearray(4_000_000)); time.sleep(0.002)\n"
        "        time.sleep(60)",
    ),
    "multiplies": (
        "processes",
        "more than 64 processes",
        "import os, time\n        for _ in range(7): os.fork()\n        time.sleep(20)",
    ),
    "crashes": ("crash", "SIGSEGV", "import ctypes; ctypes.string_at(0)"),
    "leaves early": ("crash", "exit code 0 while checking outputs", "import os; os._exit(0)"),
    "prints megabytes": ("output_volume", "printed more than", "print('x' * 3_000_000)"),
    "prints past python": (
        "crash",
        "exit code 7",
        "import os; [os.write(1, b'x' * 65536) for _ in range(64)]; os._exit(7)",
    ),
    "forges a report": (
        "report",
        "lacks",
        'import os, sys; open(\'report.json\', \'w\').write(\'{"complete": true, "doing": "", "verdicts": []}\')\n'
        "        os._exit(0)",
    ),
    "writes to the terminal through its report": (
        "\\x1b[2J",
        r"\x1b]0;owned",
        "import json, os; bad = {'check': chr(27) + '[2J', 'outcome': 'failed', 'reason': chr(27) + ']0;owned'}\n"
        "        bad |= {'refuses': True}\n"
        "        report = {'complete': True, 'doing': '', 'verdicts': [bad]}\n"
        "        open('report.json', 'w').write(json.dumps(report)); os._exit(0)",
    ),
    "points the report at a secret": (
        "crash",
        "exit code 0",
        "import os; os.remove('report.json'); os.symlink('/etc/passwd', 'report.json'); os._exit(0)",
    ),
    "opens a socket": ("outputs", "PermissionError", "import socket; socket.socket()"),
    "reads the user's files": ("outputs", "Error", "open('/root/.profile').read(); open('/home/x').read()"),
}


def admitted(folder: Path, body: str = "pass", python: str = sys.executable, **changed: object) -> AdmissionReport:
    config = load_config([])
    order = AdmissionOrder(
        program=PROGRAM.format(body=body),
        class_name="",
        contract=domain_named(config.domain.name).contract,
        settings=replace(config.admission, limit_s=60, memory_gb=0.8),
        stage=config.stage,
        target_parameters=None,
        exempt_cost=False,
        jail=config.jail,
        known_fingerprints={},
        own_rung=True,
    )
    return admit(replace(order, **changed), workdir=folder, python=python)  # type: ignore[arg-type]


def refusals(report: AdmissionReport) -> list[Verdict]:
    return [verdict for verdict in report.verdicts if verdict.refuses]


def test_an_honest_program_comes_back_with_all_that_a_candidate_needs(tmp_path: Path) -> None:
    report = admitted(tmp_path)

    assert refusals(report) == []
    assert report.class_name == "DeltaNet"
    assert report.rung == best_rung("auto")
    assert report.parameter_count > 0
    assert len(report.fingerprint) == 64
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_behaviour_of_an_earlier_program_is_refused_for_our_rungs_only(tmp_path: Path) -> None:
    first = admitted(tmp_path)
    known = {"feedfacefeedface": first.fingerprint}
    ours = admitted(tmp_path, "x = x * 1.0", known_fingerprints=known)
    theirs = admitted(tmp_path, "x = x * 1.0", known_fingerprints=known, own_rung=False)

    assert [verdict.check for verdict in refusals(ours)] == ["duplicate_behaviour"]
    assert "same behaviour as feedfacefeedface" in refusals(ours)[0].reason
    assert refusals(theirs) == []


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "leaves early" else pytest.mark.slow) for n in HOSTILE]
)
def test_a_hostile_program_ends_in_one_verdict_that_says_why(tmp_path: Path, name: str) -> None:
    check, told, body = HOSTILE[name]
    limits = replace(load_config([]).admission, limit_s=8, memory_gb=0.8)

    report = admitted(tmp_path, body, settings=limits)

    (refused,) = refusals(report)
    assert (refused.check, told in refused.reason) == (check, True), refused
    assert "\n" not in refused.reason
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_second_rung_gives_the_same_verdicts(tmp_path: Path) -> None:
    try:
        best_rung("landlock")
    except JailError as error:
        pytest.skip(str(error))
    best, second = admitted(tmp_path), admitted(tmp_path, jail=Jail(rung="landlock"))

    assert (second.rung, second.verdicts, second.fingerprint) == ("landlock", best.verdicts, best.fingerprint)


def test_a_python_that_cannot_run_the_checks_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(JailError, match=r"the checking child does not start under .*: ModuleNotFoundError"):
        admitted(tmp_path, python="/usr/bin/python3")


def test_a_feed_forward_is_counted_beside_its_mixer_and_refused_where_it_sees_the_future(tmp_path: Path) -> None:
    domain = domain_named("feed_forward")
    honest = admitted(tmp_path, program=domain.seed_program, contract=domain.contract)
    assert not refusals(honest)
    assert honest.class_name == "FeedForward"
    alone = admitted(tmp_path, program=domain.seed_program)
    assert alone.parameter_count != honest.parameter_count
    program = domain.seed_program.replace("F.silu(gate)", "F.silu(gate.roll(-1, 1))")
    leaking = admitted(tmp_path, program=program, contract=domain.contract)
    assert "causality" in {verdict.check for verdict in refusals(leaking)}

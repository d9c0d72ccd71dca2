"""What gets through a jail, on each rung, as the user of the tests and as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arch_search.jail import rungs
from arch_search.jail.rungs import LADDER, why_not
from tests.jail.conftest import Ordinary
from tests.jail.probing import PROBES, differences, run_probe
from tests.owner import REPOSITORY

REACHED = [rung for rung in LADDER if not why_not(rung)]
LIMIT_S = 300
PID_ONE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]


@pytest.mark.parametrize("rung", LADDER)
def test_this_machine_reaches_the_rung(rung: str) -> None:
    if why_not(rung):
        pytest.skip(f"no probe could be tried on {rung}: {why_not(rung)}")


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("rung", REACHED)
def test_a_program_gets_no_further_than_recorded(short_folder: Path, name: str, rung: str) -> None:
    assert differences(PROBES[name], rung, run_probe(PROBES[name], rung, short_folder)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, probe in PROBES.items() if probe.everywhere])
def test_limits_hold_without_a_jail_too(short_folder: Path, name: str) -> None:
    assert differences(PROBES[name], "off", run_probe(PROBES[name], "off", short_folder)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_a_program_of_an_ordinary_user_gets_no_further_than_recorded(ordinary: Ordinary, name: str) -> None:
    found = as_ordinary(ordinary, REACHED, name)

    assert {rung: found[rung][name]["differences"] for rung in REACHED} == {rung: [] for rung in REACHED}


# job submission is tried on a real Slurm, where it must get through as well
CONFINED = [name for name, probe in PROBES.items() if not probe.everywhere and name != "submits jobs"]


@pytest.mark.slow
def test_every_probe_gets_through_where_nothing_is_confined(request: pytest.FixtureRequest, short_folder: Path) -> None:
    if os.getuid() == 0:
        # root without a jail could do harm
        found = as_ordinary(request.getfixturevalue("ordinary"), ["off"], *CONFINED)["off"]
        through = {name: found[name]["through"] for name in CONFINED}
    else:
        through = {name: run_probe(PROBES[name], "off", short_folder).through for name in CONFINED}

    assert [name for name in CONFINED if not through[name]] == []


@pytest.mark.parametrize("rung", REACHED)
def test_nothing_stays_behind_where_the_supervisor_is_the_first_process(short_folder: Path, rung: str) -> None:
    command = [sys.executable, "-m", "tests.jail.probing", str(short_folder), rung, "stays behind", "forks away"]
    ran = subprocess.run([*PID_ONE, *command], cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT_S)
    if "unshare: " in ran.stderr or shutil.which("unshare") is None:
        pytest.skip(f"no process of number 1 can be started here: {ran.stderr.strip()}")

    assert ran.stderr == ""
    assert {name: found["differences"] for name, found in json.loads(ran.stdout)[rung].items()} == {
        "stays behind": [],
        "forks away": [],
    }


@pytest.mark.parametrize("rung", REACHED)
def test_the_device_nodes_of_an_accelerator_stay_visible(
    short_folder: Path, rung: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not rungs.accelerators():
        # any node that a jail hides otherwise shows that those of the list are let in
        monkeypatch.setattr(rungs, "_ACCELERATORS", ("/dev/fuse", "/dev/autofs"))
    if not any(os.access(node, os.R_OK | os.W_OK) for node in rungs.accelerators()):
        pytest.skip("no accelerator, and no other device node that this user may open")

    probe = PROBES["uses the accelerators"]
    assert differences(probe, rung, run_probe(probe, rung, short_folder)) == []


def as_ordinary(ordinary: Ordinary, wanted: list[str], *names: str) -> dict[str, dict[str, Any]]:
    ids = [f"--reuid={ordinary.owner.uid}", f"--regid={ordinary.owner.gid}", "--clear-groups"]
    command = [ordinary.python, "-m", "tests.jail.probing", str(ordinary.folder), ",".join(wanted), *names]
    ran = subprocess.run(
        ["setpriv", *ids, *command],
        cwd=REPOSITORY,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(ordinary.folder),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, dict[str, Any]] = json.loads(ran.stdout)
    return found

"""The probes of the jail inside a real job: what a program of the search could do on a node."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.jail.probing import PROBES
from tests.slurm_cluster.cluster import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
_SCRIPT = """#!/bin/bash
{python} -m tests.jail.probing {folder} auto > {folder}/jailed.json &&
{python} -m tests.jail.probing {folder} off 'submits jobs' > {folder}/open.json
"""


@pytest.fixture(scope="module")
def probed(slurm_cluster: SlurmCluster) -> dict[str, Any]:
    """What one job printed: all probes on the rung that a work unit would take, job submission also without a jail."""
    folder = slurm_cluster.make_folder("probes")
    script = folder / "probe.sh"
    script.write_text(_SCRIPT.format(python=slurm_cluster.python, folder=folder))
    output = folder / "output"
    submit = ["sbatch", "--wait", f"--output={output}", "--time=5", f"--chdir={folder}", str(script)]
    done = slurm_cluster.run_as_user(submit, timeout_s=300)
    assert done.returncode == 0, done.stderr + (output.read_text() if output.exists() else "")
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("jailed", "open")}


@pytest.mark.parametrize("name", PROBES)
def test_a_program_in_a_job_gets_no_further_than_recorded(probed: dict[str, Any], name: str) -> None:
    (found,) = probed["jailed"].values()

    assert found[name]["differences"] == []


def test_a_program_without_a_jail_could_submit_jobs(probed: dict[str, Any]) -> None:
    through = probed["open"]["off"]["submits jobs"]["through"]

    assert {"sbatch", "scontrol", "munge"} <= set(through)
    assert any(step.startswith("port ") for step in through)

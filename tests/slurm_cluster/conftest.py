"""One real Slurm for all tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.slurm_cluster.cluster import SlurmCluster, missing_programs


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """A running cluster of four nodes; skipped only where its programs are not installed.

    `environment` (SLURM_CONF, PATH with a usable python), `run_as_user(command, cwd=, env=)`, `make_folder(name)`,
    `python`, `owner`; see SlurmCluster.
    """
    missing = missing_programs()
    if missing:
        pytest.skip(f"Slurm is not installed ({', '.join(missing)}): run tests/slurm_cluster/install.sh as root")
    with SlurmCluster() as cluster:
        yield cluster

"""The real vLLM of this machine and the weights of a small model, as the user of a test cluster can run them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.owner import REPOSITORY, can_run, python_version
from tests.slurm_cluster.cluster import SlurmCluster

MODEL = "smollm2-135m-instruct"
ENVIRONMENT = REPOSITORY / ".venv-llm"
WEIGHTS = REPOSITORY / ".cache" / "weights" / MODEL
START = "import sys; from vllm.entrypoints.cli.main import main; sys.argv[0] = 'vllm'; main()"


def model_of(cluster: SlurmCluster) -> list[str]:
    """Overrides for `llm=vllm_job`: where the user of the cluster can't run our environment, one over its packages."""
    folder = cluster.make_folder("vllm")
    environment = ENVIRONMENT
    if not can_run(cluster.owner, str(ENVIRONMENT / "bin/python"), "import vllm"):
        environment = folder / "env"
        _make_environment(environment, cluster.python)
    weights = folder / "weights"
    shutil.copytree(WEIGHTS, weights)
    for path in weights.iterdir():
        path.chmod(0o644)
    settings = {"model": MODEL, "weights": weights, "env_dir": environment, "cache_dir": folder}
    return ["llm=vllm_job", *(f"llm.{key}={value}" for key, value in settings.items())]


def _make_environment(folder: Path, python: str) -> None:
    packages = next(ENVIRONMENT.glob("lib/python3*/site-packages"))
    own = folder / "lib" / f"python{python_version()}" / "site-packages"
    own.mkdir(parents=True)
    (own / "vllm").symlink_to(packages / "vllm")
    (folder / "bin").mkdir()
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (folder / "bin/python").symlink_to(os.path.realpath(python))
    (own / "packages_of_vllm.pth").write_text(f"import site; site.addsitedir({str(packages)!r})\n")
    (folder / "bin/vllm").write_text(f'#!/bin/sh\nexec "$(dirname "$0")/python" -c "{START}" "$@"\n')
    (folder / "bin/vllm").chmod(0o755)

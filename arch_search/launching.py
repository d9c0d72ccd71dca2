"""From settings to a launcher, and what a work unit runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from arch_search.campaign import Campaign
from slurm.cluster import ClusterLauncher
from slurm.launchers import Launcher
from slurm.local import InlineLauncher, LocalLauncher
from slurm.units import Resources


def make_launcher(campaign: Campaign) -> Launcher:
    """The launcher that slurm.launcher names."""
    settings = campaign.config.slurm
    if settings.launcher == "inline":
        return InlineLauncher()
    if settings.launcher == "local":
        return LocalLauncher(max_parallel=settings.max_parallel or os.cpu_count() or 1)
    return ClusterLauncher(
        Resources(
            cpus_per_task=settings.cpus_per_task,
            memory_gb=settings.memory_gb,
            timeout_min=settings.timeout_min,
            partition=settings.partition,
            account=settings.account,
            qos=settings.qos,
            constraint=settings.constraint,
            gres=settings.gres,
            setup=settings.setup,
            extra_sbatch=settings.extra_sbatch,
        ),
        max_parallel=settings.max_parallel,
        poll_s=settings.poll_s,
    )


def worker_command(manifest: Path, index: int) -> list[str]:
    return [sys.executable, "-m", "arch_search.worker", str(manifest), str(index)]


def worker_environment(threads: int) -> dict[str, str]:
    """Over-subscribed OpenMP threads spin and cost several times the work; one thread a task is the fastest."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "GOMP_SPINCOUNT": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }

"""From settings to a launcher, and what a work unit runs."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import arch_search
from arch_search.campaign import Campaign
from arch_search.config import LlmJob, Slurm
from arch_search.errors import ConfigError
from slurm import preflight as slurm_preflight
from slurm.client import least_poll_s
from slurm.cluster import ClusterLauncher
from slurm.errors import SubmitError, UnavailableError
from slurm.launchers import Launcher
from slurm.local import InlineLauncher, LocalLauncher
from slurm.service import ServiceLauncher
from slurm.units import Resources

PACKAGES = ("arch_search", "slurm", "kernels", "cognition_db", "hydra_conf")
CONTAINER_HOME = "/opt/arch_search"  # where a container finds our packages; the image supplies Python and libraries
JOB_KINDS = ("vllm_job", "vllm_batch")
# `module` is a function of login shells; a driver started by cron or by a csh has not passed it on
_MODULES_THERE = "type module >/dev/null 2>&1 || source /etc/profile"
# apptainer shows $HOME, the working folder and /tmp by itself, but not the job's own disk
_NODE_DISK_SHOWN = 'export APPTAINER_BIND="${SLURM_TMPDIR:-${TMPDIR:-/tmp}}${APPTAINER_BIND:+,$APPTAINER_BIND}"'


def make_launcher(campaign: Campaign) -> Launcher:
    """The launcher that slurm.launcher names."""
    settings = campaign.config.slurm
    if settings.launcher == "inline":
        return InlineLauncher()
    if settings.launcher == "local":
        return LocalLauncher(max_parallel=settings.max_parallel or os.cpu_count() or 1)
    return ClusterLauncher(
        unit_resources(settings),
        max_parallel=settings.max_parallel,
        max_submitted=settings.max_submitted,
        poll_s=queue_poll_s(settings),
        ledger=campaign.paths.slurm_calls,
    )


def make_service_launcher(campaign: Campaign, *, clock: Callable[[], float] = time.time) -> ServiceLauncher:
    """For single jobs (drivers, model servers, batches), with the answers of squeue that all of them share."""
    return ServiceLauncher(poll_s=queue_poll_s(campaign.config.slurm), clock=clock, ledger=campaign.paths.slurm_calls)


def queue_poll_s(settings: Slurm) -> float:
    """Time between two questions to the queue of Slurm; a campaign that trains elsewhere asks it no more often.

    Raises:
        ConfigError: slurm.poll_s is shorter than a cluster puts up with.
    """
    least_s = least_poll_s()
    if settings.launcher == "cluster" and settings.poll_s < least_s:
        raise ConfigError(
            f"slurm.poll_s={settings.poll_s:g}: Slurm may be asked every {least_s:g} s at most, since all users share "
            f"its controller; use slurm.poll_s={least_s:g} or more"
        )
    return max(settings.poll_s, least_s)


def unit_resources(settings: Slurm) -> Resources:
    """What one work unit asks of Slurm."""
    return Resources(
        cpus_per_task=settings.cpus_per_task,
        memory_gb=settings.memory_gb,
        timeout_min=settings.timeout_min,
        partition=settings.partition,
        account=settings.account,
        qos=settings.qos,
        constraint=settings.constraint,
        gres=settings.gres,
        gpus_per_task=settings.gpus_per_task,
        warn_s=settings.warn_s,
        requeue=settings.requeue,
        mail_user=settings.mail_user,
        mail_type=settings.mail_type,
        setup=setup_lines(settings),
        extra_sbatch=settings.extra_sbatch,
    )


def server_resources(job: LlmJob) -> Resources:
    """What the job of the model server asks of Slurm."""
    return Resources(
        cpus_per_task=job.cpus_per_task,
        memory_gb=job.memory_gb,
        timeout_min=job.timeout_min,
        partition=job.partition,
        account=job.account,
        qos=job.qos,
        constraint=job.constraint,
        gres=job.gres,
        gpus_per_task=job.gpus_per_task,
        setup=job.setup,
        extra_sbatch=job.extra_sbatch,
    )


def setup_lines(settings: Slurm) -> tuple[str, ...]:
    """Shell lines before the command of a unit: modules, then the environment, then the user's own."""
    modules = [f"module load {shlex.quote(name)} || exit 1" for name in settings.modules]
    return (
        *([_MODULES_THERE, *modules] if modules else []),
        *([f"source {shlex.quote(f'{settings.venv}/bin/activate')} || exit 1"] if settings.venv else []),
        *([_NODE_DISK_SHOWN] if settings.container else []),
        *settings.setup,
    )


def preflight(campaign: Campaign) -> None:
    """Ask Slurm, before the first round is submitted, whether it will take what the campaign asks for.

    A controller that does not answer at present is no refusal.

    Raises:
        SubmitError: one line with Slurm's words, the setting, and what is allowed.
    """
    if campaign.config.slurm.launcher != "cluster" or campaign.generation(0).submission(1).exists():
        return
    refusals = refused_requests(campaign.config.slurm, campaign.config.llm.job, campaign.config.llm.kind)
    if refusals:
        raise SubmitError("; ".join(refusals))


def refused_requests(settings: Slurm, job: LlmJob, llm_kind: str) -> list[str]:
    """One line for each request (work units, model server) that Slurm would refuse or never start."""
    requests = {"slurm": unit_resources(settings)}
    if llm_kind in JOB_KINDS:
        requests["llm.job"] = server_resources(job)
    refusals = []
    for group, resources in requests.items():
        try:
            refusals.append(slurm_preflight.why_refused(resources, group=group))
        except UnavailableError as error:
            if "not on PATH" in str(error):
                refusals.append(f"{error}; slurm=local runs on this machine")
    return [refusal for refusal in refusals if refusal]


def module_command(settings: Slurm, folders: Sequence[Path], module: str, *words: str) -> list[str]:
    """The argument list of `python -m module words` where units run; `folders` are what it reads and writes."""
    if settings.launcher != "cluster":
        return [sys.executable, "-m", module, *words]
    if settings.container:
        return [*_container(settings, folders), "python", "-m", module, *words]
    python = f"{settings.venv}/bin/python" if settings.venv else sys.executable
    return [python, "-m", module, *words]


def worker_command(campaign: Campaign, manifest: Path, index: int) -> list[str]:
    """What one work unit runs."""
    words = (str(manifest), str(index))
    return module_command(campaign.config.slurm, [campaign.paths.root], "arch_search.worker", *words)


def worker_environment(threads: int) -> dict[str, str]:
    """Over-subscribed OpenMP threads spin and cost several times the work; one thread a task is the fastest."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "GOMP_SPINCOUNT": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _container(settings: Slurm, folders: Sequence[Path]) -> list[str]:
    """apptainer with our own packages shown inside, so that nodes run the program of the driver, not of the image."""
    source = Path(arch_search.__file__).resolve().parent.parent
    packages = [f"{source / name}:{CONTAINER_HOME}/{name}:ro" for name in PACKAGES]
    shown = [word for bind in [*packages, *map(str, folders)] for word in ("--bind", bind)]
    gpu = ["--nv"] if settings.gres or settings.gpus_per_task else []
    path = ["--env", f"PYTHONPATH={CONTAINER_HOME}"]
    return ["apptainer", "exec", *gpu, *shown, *path, str(settings.container)]

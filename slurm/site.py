"""The site: whether there is a Slurm, and the limits it sets on job arrays."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass

from slurm.client import run_client
from slurm.errors import UnavailableError

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "srun")  # submitit refuses to work without srun
_PING_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLimits:
    """What `scontrol show config` says. An array has at most `max_array_size` elements, with indices below that."""

    cluster: str
    version: str
    max_array_size: int
    accounting: bool
    min_job_age_s: int


def parse_config(text: str) -> SiteLimits:
    """Read the output of `scontrol show config`; raises UnavailableError where MaxArraySize is missing."""
    facts = dict(re.findall(r"^(\w+)[ \t]*=[ \t]*(.*?)[ \t]*$", text, flags=re.MULTILINE))
    if not re.fullmatch(r"\d+", facts.get("MaxArraySize", "")):
        raise UnavailableError("scontrol show config does not tell MaxArraySize; is slurmctld running?")
    of_scheduler = re.search(r"max_array_tasks=(\d+)", facts.get("SchedulerParameters", ""))
    sizes = [int(facts["MaxArraySize"]), *([int(of_scheduler[1])] if of_scheduler else [])]
    age = re.match(r"\d+", facts.get("MinJobAge", ""))
    return SiteLimits(
        cluster=facts.get("ClusterName", ""),
        version=facts.get("SLURM_VERSION", ""),
        max_array_size=min(sizes),
        accounting=facts.get("AccountingStorageType", "").endswith("slurmdbd"),
        min_job_age_s=int(age[0]) if age else 300,
    )


def read_limits() -> SiteLimits:
    """Ask slurmctld; raises UnavailableError."""
    return parse_config(run_client(["scontrol", "show", "config"], limit_s=_PING_LIMIT_S))


def why_unavailable() -> str | None:
    """One line on why job arrays can't be submitted from here, or None."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"not on PATH: {', '.join(missing)}"
    try:
        found = read_limits()
    except UnavailableError as error:
        return str(error)
    return None if found.max_array_size > 0 else "job arrays are switched off (MaxArraySize=0)"


def is_available() -> bool:
    """Whether job arrays can be submitted from here; asks slurmctld."""
    return why_unavailable() is None

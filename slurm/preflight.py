"""Preflight: asks the site whether it would take a request, before anything depends on it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from slurm.client import client_environment, run_client
from slurm.errors import UnavailableError
from slurm.refusals import explain, named
from slurm.service_text import sbatch_options
from slurm.units import Resources

_ASK_LIMIT_S = 60.0
# a controller that is busy, away or being restarted: says nothing about the request
_NO_ANSWER = re.compile(r"Unable to contact slurm|timed out|Zero Bytes|refused|standby|try again|temporarily")


def why_refused(resources: Resources, *, group: str = "slurm") -> str | None:
    """One line where Slurm would refuse the request or never start it; None where it would take it.

    `group` is where the settings stand, as "slurm" or "llm.job". Nothing is submitted: `sbatch --test-only` asks
    slurmctld, and the limits of the partitions are compared, since by default (EnforcePartLimits=NO) Slurm accepts
    what a partition forbids and leaves it pending for ever.

    Raises:
        UnavailableError: sbatch is missing, or slurmctld does not answer, so that nobody knows.
    """
    message = _test_only(resources)
    if message is not None:
        return explain(message, resources, run_client, group=group)
    try:
        partitions = run_client(["scontrol", "show", "partition", "--oneliner"])
    except UnavailableError:
        return None
    return never_starts(partitions, resources, group=group)


def never_starts(partitions: str, resources: Resources, *, group: str = "slurm") -> str | None:
    """Why no partition of the request would ever start it, from `scontrol show partition --oneliner`; None: one may."""
    rows = [dict(re.findall(r"(\w+)=(\S+)", line)) for line in partitions.splitlines() if "PartitionName=" in line]
    wanted = resources.partition.split(",") if resources.partition else None
    chosen = [row for row in rows if (row["PartitionName"] in wanted if wanted else row.get("Default") == "YES")]
    problems = [problem for row in chosen if (problem := _problem(row, resources)) is not None]
    if not chosen or len(problems) < len(chosen):
        return None
    setting, told = problems[0][0], "; ".join(text for _, text in problems)
    return f"Slurm would never start a job with {named(setting, resources, group)}: {told}"


def _problem(partition: dict[str, str], resources: Resources) -> tuple[str, str] | None:
    """The setting that this partition forbids for ever, and what it allows."""
    name = partition["PartitionName"]
    limit_min = _minutes(partition.get("MaxTime", ""))
    if limit_min is not None and resources.timeout_min > limit_min:
        return "timeout_min", f"partition {name} allows at most {limit_min:g} minutes (MaxTime={partition['MaxTime']})"
    for setting, value, kind in (("account", resources.account, "Accounts"), ("qos", resources.qos, "Qos")):
        allowed, denied = partition.get(f"Allow{kind}", "ALL"), partition.get(f"Deny{kind}", "")
        if value and allowed != "ALL" and value not in allowed.split(","):
            return setting, f"partition {name} allows only {allowed}"
        if value and value in denied.split(","):
            return setting, f"partition {name} denies {denied}"
    most_mb = partition.get("MaxMemPerNode", "")
    if most_mb.isdigit() and resources.memory_gb * 1024 > int(most_mb):
        return "memory_gb", f"partition {name} allows at most {int(most_mb) / 1024:.4g} GB a node"
    most_cpus = partition.get("MaxCPUsPerNode", "")
    if most_cpus.isdigit() and resources.cpus_per_task > int(most_cpus):
        return "cpus_per_task", f"partition {name} allows at most {most_cpus} cores a node"
    return None


def _minutes(text: str) -> float | None:
    """Minutes of Slurm's days-hours:minutes:seconds; None for UNLIMITED and anything else."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + minutes + seconds / 60


def _test_only(resources: Resources) -> str | None:
    """All that `sbatch --test-only` says against the request; None where it would take it."""
    mail = {"mail-type": resources.mail_type, "mail-user": resources.mail_user}
    asked = sbatch_options(resources) | {key: value for key, value in mail.items() if value}
    with tempfile.TemporaryDirectory(prefix="asx-preflight-") as folder:
        script = Path(folder) / "nothing.sh"
        script.write_text("#!/bin/bash\ntrue\n")
        options = [f"--{key}" if value is True else f"--{key}={value}" for key, value in asked.items()]
        try:
            done = subprocess.run(
                ["sbatch", "--test-only", *options, str(script)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_ASK_LIMIT_S,
                env=client_environment(),
                check=False,
            )
        except FileNotFoundError:
            raise UnavailableError("sbatch is not on PATH; is this a node of a Slurm cluster?") from None
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"sbatch --test-only did not answer within {_ASK_LIMIT_S:g} s") from None
    if done.returncode == 0:
        return None
    if _NO_ANSWER.search(done.stderr):
        raise UnavailableError(f"sbatch --test-only: {' '.join(done.stderr.split())}")
    return done.stderr + done.stdout

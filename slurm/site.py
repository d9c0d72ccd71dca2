"""The site: whether there is a Slurm, and the limits it sets on job arrays."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace

from slurm.client import run_client
from slurm.errors import UnavailableError
from slurm.refusals import user_name

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "flock")
_PING_LIMIT_S = 20.0
_ENFORCES_LIMITS = {"limits", "safe", "all"}
_SACCTMGR = ("sacctmgr", "--noheader", "--parsable2", "show")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLimits:
    """What `scontrol show config` and, where it may be asked, sacctmgr say; None: no limit is known.

    An array has at most `max_array_size` elements, with indices below that. `max_submit_jobs`: elements of this user
    in the queue at once, by the association or QOS that `submit_source` names; `max_jobs`: running at once.
    `max_job_count`: jobs of all users.
    """

    cluster: str
    version: str
    max_array_size: int
    accounting: bool
    min_job_age_s: int
    enforces_limits: bool = False
    max_job_count: int | None = None
    max_submit_jobs: int | None = None
    submit_source: str = ""
    max_jobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UserLimits:
    """The limits of one association or QOS; `account` and `default_qos` are empty for a QOS."""

    name: str
    max_submit_jobs: int | None
    max_jobs: int | None
    account: str = ""
    default_qos: str = ""


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
        enforces_limits=bool(_ENFORCES_LIMITS & set(facts.get("AccountingStorageEnforce", "").split(","))),
        max_job_count=_limit(facts.get("MaxJobCount", "")),
    )


def parse_associations(text: str) -> tuple[UserLimits, ...]:
    """Read `sacctmgr --parsable2 show associations format=account,defaultqos,maxsubmit,maxjobs`."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 3]
    return tuple(
        UserLimits(
            name=f"association {account}",
            account=account,
            default_qos=qos,
            max_submit_jobs=_limit(submit),
            max_jobs=_limit(jobs),
        )
        for account, qos, submit, jobs in rows
    )


def parse_qos(text: str) -> dict[str, UserLimits]:
    """Read `sacctmgr --parsable2 show qos format=name,maxsubmitjobsperuser,maxjobsperuser`."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    return {
        name: UserLimits(name=f"qos {name}", max_submit_jobs=_limit(submit), max_jobs=_limit(jobs))
        for name, submit, jobs in rows
    }


def parse_partition_qos(text: str, partitions: str | None) -> tuple[str, ...]:
    """QOS of the partitions (names with commas; None: the default one), from `scontrol --oneliner show partition`."""
    wanted = set(partitions.split(",")) if partitions else None
    found = []
    for line in text.splitlines():
        facts = dict(re.findall(r"(\w+)=(\S*)", line))
        is_meant = facts.get("PartitionName") in wanted if wanted else facts.get("Default") == "YES"
        if is_meant and facts.get("QoS", "N/A") not in ("N/A", ""):
            found.append(facts["QoS"])
    return tuple(found)


def tighten(limits: SiteLimits, known: Iterable[UserLimits]) -> SiteLimits:
    """The limits with the smallest of those that an association or QOS sets."""
    known = list(known)
    submit = min((one for one in known if one.max_submit_jobs is not None), key=_submit_jobs, default=None)
    jobs = [one.max_jobs for one in known if one.max_jobs is not None]
    return replace(
        limits,
        max_submit_jobs=submit.max_submit_jobs if submit else None,
        submit_source=submit.name if submit else "",
        max_jobs=min(jobs, default=None),
    )


def read_limits() -> SiteLimits:
    """Ask slurmctld; raises UnavailableError."""
    return parse_config(run_client(["scontrol", "show", "config"], limit_s=_PING_LIMIT_S))


def read_user_limits(
    limits: SiteLimits, *, account: str | None = None, qos: str | None = None, partition: str | None = None
) -> SiteLimits:
    """The limits with what sacctmgr says about this user; unchanged where it does not answer or nothing is enforced.

    `account`, `qos` and `partition` are what the jobs ask for; None is the default of the user or the site.
    """
    if not (limits.accounting and limits.enforces_limits):
        return limits
    user = user_name()
    try:
        default = account or _ask([*_SACCTMGR, "user", user, "format=defaultaccount"]).strip()
        whose = ["associations", f"user={user}", f"cluster={limits.cluster}"]
        rows = parse_associations(_ask([*_SACCTMGR, *whose, "format=account,defaultqos,maxsubmit,maxjobs"]))
        every_qos = parse_qos(_ask([*_SACCTMGR, "qos", "format=name,maxsubmitjobsperuser,maxjobsperuser"]))
        of_partition = parse_partition_qos(_ask(["scontrol", "--oneliner", "show", "partition"]), partition)
    except UnavailableError:
        return limits
    mine = [row for row in rows if row.account == default] or list(rows)
    names = {*of_partition, qos or next((row.default_qos for row in mine if row.default_qos), "normal")}
    return tighten(limits, [*mine, *(every_qos[name] for name in sorted(names) if name in every_qos)])


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


def _ask(command: list[str]) -> str:
    return run_client(command, limit_s=_PING_LIMIT_S)


def _limit(text: str) -> int | None:
    """A limit as sacctmgr prints it: empty where there is none."""
    return int(text) if text.isdigit() else None


def _submit_jobs(one: UserLimits) -> int:
    return one.max_submit_jobs or 0

"""What a test cluster can look like, and the files that Slurm reads to look so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """A kind of site. `accounting`: slurmdbd behind a MariaDB, else none and no sacct.

    `preempt` makes the partition `high` preempt the jobs of `main` in this way. `max_submit_jobs` is the limit of jobs
    in the queue that `max_submit_by` sets for the user of the cluster.
    """

    nodes: int = 4
    cpus_per_node: int = 4
    memory_mb: int = 8000
    gpus_per_node: int = 0  # each is a terminal device file, which Slurm takes for a GPU
    max_array_size: int = 32  # small, so that forty elements need two arrays
    max_submit_jobs: int | None = None
    max_submit_by: Literal["association", "qos"] = "association"
    accounting: bool = True
    preempt: Literal["REQUEUE", "CANCEL", "SUSPEND"] | None = None
    kill_wait_s: int = 3
    over_time_limit_min: int = 0
    node_timeout_s: int = 10  # a node that has not answered for so long is down
    min_job_age_s: int = 300
    limit_memory: bool = False  # by control groups where root and their first version are there, else by polling

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))


SLURM_CONF = """\
ClusterName=asx
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={slurmd_user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire=15
MpiDefault=none
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/linux
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_min_interval=100000
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
JobRequeue=1
JobCompType=jobcomp/none
MaxJobCount=5000
"""

ACCOUNTING_CONF = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={database_port}
AccountingStoragePass={folder}/run/munge.sock
AccountingStorageEnforce=associations,limits,qos
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={database_port}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=local
StorageLoc=slurm_acct_db
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
"""


def slurm_conf(
    options: ClusterOptions, *, folder: Path, host: str, user: str, slurmd_user: str, ports: Sequence[int]
) -> str:
    """The text of slurm.conf; `ports` are those of slurmdbd, slurmctld and of each slurmd in turn."""
    database_port, controller_port, *node_ports = ports
    facts = {"folder": folder, "host": host, "user": user, "slurmd_user": slurmd_user}
    memory = _memory(slurmd_user, user) if options.limit_memory else ["TaskPlugin=task/none"]
    text = SLURM_CONF.format(**facts, controller_port=controller_port) + "\n".join([*memory, *_numbers(options), ""])
    text += ACCOUNTING_CONF.format(folder=folder, database_port=database_port) if options.accounting else ""
    shape = f"CPUs={options.cpus_per_node} RealMemory={options.memory_mb}"
    if options.gpus_per_node:
        text += "GresTypes=gpu\n"
        shape += f" Gres=gpu:{options.gpus_per_node}"
    for node, port in zip(options.node_names, node_ports, strict=True):
        text += f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} {shape}\n"
    return text + "\n".join([*_partitions(options), ""])


CGROUP_CONF = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
"""


def has_memory_groups() -> bool:
    """Whether control groups of the first version can limit memory here; their daemon must run as root."""
    return os.geteuid() == 0 and os.access("/sys/fs/cgroup/memory/memory.limit_in_bytes", os.R_OK)


def remove_memory_groups() -> None:
    """Remove the control groups that slurmd has left; one that is still in use stays."""
    for group in sorted(Path("/sys/fs/cgroup/memory").glob("slurm_n*/**/"), reverse=True):
        with suppress(OSError):
            group.rmdir()


def gres_conf(options: ClusterOptions) -> str:
    names = f"n[1-{options.nodes}]" if options.nodes > 1 else "n1"
    return f"NodeName={names} Name=gpu File=/dev/tty[1-{options.gpus_per_node}]\n"


def _numbers(options: ClusterOptions) -> list[str]:
    return [
        f"MaxArraySize={options.max_array_size}",
        f"KillWait={options.kill_wait_s}",
        f"OverTimeLimit={options.over_time_limit_min}",
        f"SlurmdTimeout={options.node_timeout_s}",
        f"MinJobAge={options.min_job_age_s}",
    ]


def _memory(slurmd_user: str, user: str) -> list[str]:
    if slurmd_user == user:
        return ["JobAcctGatherParams=OverMemoryKill", "JobAcctGatherFrequency=task=1"]
    return ["TaskPlugin=task/cgroup"]


def _partitions(options: ClusterOptions) -> list[str]:
    common = "Nodes=ALL MaxTime=INFINITE State=UP"
    if options.preempt is None:
        return [f"PartitionName=main Default=YES {common}"]
    # suspended jobs go on when gang scheduling gives them their processors back
    mode, shared = ("SUSPEND,GANG", "OverSubscribe=FORCE:1") if options.preempt == "SUSPEND" else (options.preempt, "")
    return [
        "PreemptType=preempt/partition_prio",
        f"PreemptMode={mode}",
        f"PartitionName=main Default=YES PriorityTier=1 PreemptMode={options.preempt} {shared} {common}",
        f"PartitionName=high PriorityTier=10 PreemptMode=OFF {shared} {common}",
    ]

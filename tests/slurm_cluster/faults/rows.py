"""The rows of the fault table, in the order in which it is printed."""

from __future__ import annotations

from tests.slurm_cluster.configuration import ClusterOptions
from tests.slurm_cluster.faults import control, disk, kills, limits, model, nodes
from tests.slurm_cluster.faults.table import Row

_KILLED_DRIVER = "nothing lost, no orphan or double array, restart at most 10 s"
_LOST_NODE = "right final state; stale writer ignored"
_PREEMPTED = "continues, resubmits, waits; no hang"
_SILENT = "no wrong verdict, no call storm"
_CANCELLED = "cause named, run again or not as configured"
_MODEL = "campaign continues on the next one"
_DISK = "pause with a reason, resume by itself, no repair by hand"

_ALL = (
    Row(
        name="kill-tasks",
        fault="SIGKILL of tasks, 100 random moments",
        must_hold="resume from checkpoint, nothing acknowledged lost, no task trained twice",
        check=kills.kill_tasks,
    ),
    Row(
        name="kill-drivers",
        fault="SIGKILL of the driver, 100 random moments",
        must_hold=_KILLED_DRIVER,
        check=kills.kill_drivers,
    ),
    Row(
        name="kill-drivers-submitting",
        fault="SIGKILL of the driver before every step of a submission and while sbatch runs",
        must_hold=_KILLED_DRIVER,
        check=kills.kill_drivers_submitting,
        options=ClusterOptions(max_array_size=4),
    ),
    Row(
        name="two-drivers",
        fault="two drivers at once, 50 races",
        must_hold="no double submission",
        check=kills.two_drivers,
    ),
    Row(
        name="node-down-requeue",
        fault="kill -9 of slurmd and node down, then up; with requeue",
        must_hold=_LOST_NODE,
        check=nodes.node_down_requeued,
    ),
    Row(
        name="node-down-no-requeue",
        fault="kill -9 of slurmd and node down, then up; without requeue",
        must_hold=_LOST_NODE,
        check=nodes.node_down_not_requeued,
    ),
    Row(
        name="preempt-requeue",
        fault="preemption by a higher partition: REQUEUE",
        must_hold=_PREEMPTED,
        check=nodes.preempt_requeued,
        options=ClusterOptions(preempt="REQUEUE"),
    ),
    Row(
        name="preempt-cancel",
        fault="preemption by a higher partition: CANCEL",
        must_hold=_PREEMPTED,
        check=nodes.preempt_cancelled,
        options=ClusterOptions(preempt="CANCEL"),
    ),
    Row(
        name="preempt-suspend",
        fault="preemption by a higher partition: SUSPEND",
        must_hold=_PREEMPTED,
        check=nodes.preempt_suspended,
        options=ClusterOptions(preempt="SUSPEND"),
    ),
    Row(
        name="wall-time",
        fault="wall time shorter than the training",
        must_hold="finishes in at most ceil(T/limit)+1 attempts",
        check=limits.wall_time,
    ),
    Row(
        name="poison",
        fault="a task that ignores the signal before its wall time",
        must_hold="ends as poison after three starts without progress",
        check=limits.poison,
    ),
    Row(
        name="slurmctld-stopped",
        fault="slurmctld stopped 3 minutes",
        must_hold=_SILENT,
        check=control.controller_stopped,
    ),
    Row(
        name="slurmctld-killed",
        fault="SIGKILL of slurmctld, 8 random moments",
        must_hold="nothing lost, no orphan or double array",
        check=control.controller_killed,
    ),
    Row(name="slurmdbd-stopped", fault="slurmdbd stopped", must_hold=_SILENT, check=control.accounting_stopped),
    Row(
        name="sacct-absent",
        fault="a site without accounting",
        must_hold=_SILENT,
        check=control.accounting_absent,
        options=ClusterOptions(accounting=False, min_job_age_s=3600),
    ),
    Row(name="sacct-late", fault="sacct late", must_hold=_SILENT, check=control.accounting_late),
    Row(name="sacct-garbage", fault="sacct printing garbage", must_hold=_SILENT, check=control.accounting_garbled),
    Row(
        name="out-of-memory",
        fault="out of memory",
        must_hold=_CANCELLED,
        check=control.out_of_memory,
        options=ClusterOptions(limit_memory=True),
    ),
    Row(
        name="scancel-element",
        fault="scancel by hand of one element",
        must_hold=_CANCELLED,
        check=control.cancelled_element,
    ),
    Row(
        name="scancel-array",
        fault="scancel by hand of the array",
        must_hold=_CANCELLED,
        check=control.cancelled_array,
    ),
    Row(
        name="small-limits",
        fault="MaxArraySize=10, MaxSubmitJobs=20 by association",
        must_hold="1,000 tasks pass",
        check=control.small_limits,
        options=ClusterOptions(max_array_size=10, max_submit_jobs=20),
    ),
    Row(
        name="small-limits-qos",
        fault="MaxArraySize=10, MaxSubmitJobsPerUser=20 by QOS",
        must_hold="1,000 tasks pass",
        check=control.small_limits,
        options=ClusterOptions(max_array_size=10, max_submit_jobs=20, max_submit_by="qos"),
    ),
    Row(
        name="ids-again",
        fault="job ids used again after the state folder is cleared",
        must_hold="no mix-up",
        check=control.ids_again,
    ),
    Row(name="model-killed", fault="model server killed", must_hold=_MODEL, check=model.model_killed, is_heavy=True),
    Row(
        name="model-hung",
        fault="model server answers /health, not completions",
        must_hold=_MODEL,
        check=model.model_hung,
        is_heavy=True,
    ),
    Row(
        name="model-wall-time",
        fault="model server at its wall time",
        must_hold=_MODEL,
        check=model.model_at_its_limit,
        is_heavy=True,
    ),
    Row(name="full-disk", fault="full disk on the campaign folder", must_hold=_DISK, check=disk.full_disk),
    Row(name="read-only", fault="campaign folder read-only for a minute", must_hold=_DISK, check=disk.read_only),
)
ROWS = {row.name: row for row in _ALL}

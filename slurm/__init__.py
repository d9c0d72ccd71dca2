"""slurm: arrays of work units on a Slurm cluster or on this machine; knows nothing of what the units do."""

from slurm.errors import SlurmError, SubmitError, UnavailableError
from slurm.launchers import ClusterLauncher, InlineLauncher, Launcher, LocalLauncher
from slurm.plan import ArrayPlan, PlannedArray, plan_arrays
from slurm.units import ArrayJob, Evidence, Order, Probe, Resources, Submission, UnitState, WorkUnit

__all__ = [
    "ArrayJob",
    "ArrayPlan",
    "ClusterLauncher",
    "Evidence",
    "InlineLauncher",
    "Launcher",
    "LocalLauncher",
    "Order",
    "PlannedArray",
    "Probe",
    "Resources",
    "SlurmError",
    "Submission",
    "SubmitError",
    "UnavailableError",
    "UnitState",
    "WorkUnit",
    "plan_arrays",
]

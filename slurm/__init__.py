"""slurm: arrays of work units on a Slurm cluster or on this machine; knows nothing of what the units do."""

from slurm.errors import SlurmError, SubmitError, UnavailableError
from slurm.launchers import ClusterLauncher, InlineLauncher, Launcher, LocalLauncher
from slurm.units import ArrayJob, Evidence, Probe, Resources, Submission, UnitState, WorkUnit

__all__ = [
    "ArrayJob",
    "ClusterLauncher",
    "Evidence",
    "InlineLauncher",
    "Launcher",
    "LocalLauncher",
    "Probe",
    "Resources",
    "SlurmError",
    "Submission",
    "SubmitError",
    "UnavailableError",
    "UnitState",
    "WorkUnit",
]

"""The exception tree of slurm. A work unit that ends badly is never one of these: it is a UnitState."""

from __future__ import annotations


class SlurmError(Exception):
    """Root of everything this package raises on purpose; one line that can be shown to the user."""


class SubmitError(SlurmError):
    """Work units could not be handed over; submitting again with the same comment is safe."""


class UnavailableError(SlurmError):
    """A client program of Slurm is missing, failed or did not answer in time; what it would have said is unknown."""

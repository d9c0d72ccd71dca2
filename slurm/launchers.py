"""Launchers: what the loop asks of whatever runs its work units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from slurm.cluster import ClusterLauncher
from slurm.local import InlineLauncher, LocalLauncher
from slurm.units import Order, Probe, Submission, UnitState, WorkUnit

__all__ = ["ClusterLauncher", "InlineLauncher", "Launcher", "LocalLauncher"]


class Launcher(Protocol):
    """Runs work units. A caller writes its intent, submits, records the receipt; after a crash in between: find."""

    def submit(self, order: Order) -> Submission:
        """Hand the units over. Called again with the same comment, go on where it stopped and start nothing twice.

        Raises:
            SubmitError, UnavailableError: with a reason for the user; trying again is safe.
        """
        ...

    def find(self, comment: str, *, folder: Path) -> Submission | None:
        """The receipt of a submission made before; None means that it was not made.

        Raises:
            UnavailableError: nobody knows at present.
        """
        ...

    def states(self, submission: Submission, units: Sequence[WorkUnit], probe: Probe) -> dict[str, UnitState]:
        """How each unit stands, by its name; also starts or submits what is due, so that only the driver may ask.

        A silent Slurm makes UNKNOWN. Raises SubmitError where the rest can't be submitted at all.
        """
        ...

    def notes(self, submission: Submission) -> dict[str, str]:
        """Name of a unit -> one line for the user, from the last `states`: why it waits, is held or ended."""
        ...

    def finish(self, submission: Submission) -> bool:
        """Every unit has its result: nothing of it shall start any more. True when nothing of it is there at all."""
        ...

    def cancel(self, submission: Submission) -> None:
        """End everything of the submission; its units then come to ENDED."""
        ...

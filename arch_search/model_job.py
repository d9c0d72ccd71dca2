"""Jobs that run the language model: one submitter for servers and batches."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from arch_search.campaign import Campaign
from arch_search.launching import module_command, server_resources
from arch_search.serving import environment, weights
from slurm.errors import SubmitError, UnavailableError
from slurm.service import ServiceJob, ServiceLauncher

WARN_S = 60  # SIGUSR1 so long before the time limit of a job
# the trainings of the campaign fill the queue at present
_NO_ROOM = re.compile(r"MaxSubmit|submit limit|temporarily unable", re.IGNORECASE)


def submit_job(
    launcher: ServiceLauncher, campaign: Campaign, words: Sequence[str], *, folder: Path, name: str
) -> ServiceJob:
    """Submit a job that runs `python -m words` with the resources of llm.job, or find it again by its name.

    Raises:
        UnavailableError: Slurm does not answer, or the queue has no room at present.
        SubmitError: it refuses the job.
    """
    llm = campaign.config.llm
    shown = [campaign.paths.root, environment.environment_folder(llm), weights.weights_folder(llm)]
    try:
        return launcher.submit(
            module_command(campaign.config.slurm, shown, *words),
            resources=server_resources(llm.job),
            folder=folder,
            name=f"asx-{campaign.config.campaign.name}-{name}",
            comment=_comment(campaign, name),
            environment={"PYTHONDONTWRITEBYTECODE": "1"},
            warn_s=WARN_S,
            group="llm.job",
        )
    except SubmitError as error:
        if _NO_ROOM.search(str(error)):
            raise UnavailableError(str(error)) from error
        raise


def find_job(launcher: ServiceLauncher, campaign: Campaign, *, folder: Path, name: str) -> ServiceJob | None:
    """The job that was submitted under that name; None where none was. Raises UnavailableError."""
    return launcher.find(_comment(campaign, name), folder=folder)


def _comment(campaign: Campaign, name: str) -> str:
    return f"asx-{campaign.uuid}-{name}"

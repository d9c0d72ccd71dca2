"""What a driver leaves behind, and how it is taken away when the campaign is to stand still."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from arch_search import driver_job
from arch_search.agents.call_log import CallLog
from arch_search.batch_client import cancel_batches
from arch_search.campaign import Campaign
from arch_search.generation import rounds_of
from arch_search.launching import make_launcher
from arch_search.model_access import ModelAccess
from arch_search.stopping import StopRequest
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.records import canonical_json
from slurm.errors import SlurmError
from slurm.launchers import Launcher
from slurm.units import Submission

Say = Callable[[str], None]


def end_work(campaign: Campaign, request: StopRequest, *, say: Say) -> None:
    """Stop the model server; as asked, cancel the arrays and take the driver's next job out of the queue.

    Doing it again changes nothing. What Slurm does not answer to is said and left.
    """
    if request.lasting:
        _try(lambda: driver_job.cancel_chain(campaign), say=say)
    if request.cancel:
        _try(lambda: cancel_arrays(campaign, say=say), say=say)
        _try(lambda: cancel_batches(campaign, say=say), say=say)
    log = CallLog(campaign.paths.calls, campaign.paths.text)
    model = ModelAccess(campaign, log, say=say, pump=lambda: None)
    # a driver job is followed by the next one, which goes on with the servers that are jobs
    is_followed = driver_job.JOB_ID in os.environ and not request.lasting
    _try(model.hand_over if is_followed else model.stop, say=say)


def cancel_arrays(campaign: Campaign, *, say: Say) -> None:
    """End every unit of the open generations; their round does not count as an attempt. Raises SlurmError."""
    closed = campaign.generations_closed()
    for number in (closed, closed + 1):
        paths = campaign.generation(number)
        for round_number in rounds_of(paths)[-1:]:
            file = paths.submission(round_number)
            record = read_json(file) if file.exists() else None
            if record is None or record.get("cancelled"):
                continue
            submission = _submission(campaign, record, number)
            if submission is not None:
                _launcher(campaign, submission.kind).cancel(submission)
                write_atomic(file, canonical_json(record | {"cancelled": True}).encode())
                say(f"gen {number}: {len(submission.units)} units cancelled")


def _submission(campaign: Campaign, record: dict[str, object], number: int) -> Submission | None:
    if record["state"] == "submitted":
        receipt = record["submission"]
        assert isinstance(receipt, dict)
        return Submission.from_json(receipt)
    return make_launcher(campaign).find(str(record["comment"]), folder=campaign.generation(number).units)


def _launcher(campaign: Campaign, kind: str) -> Launcher:
    """The launcher that made the submission, whichever the settings name by now."""
    kinds: dict[str, Literal["local", "inline", "cluster"]] = {"local": "local", "inline": "inline"}
    settings = replace(campaign.config.slurm, launcher=kinds.get(kind, "cluster"))
    return make_launcher(replace(campaign, config=replace(campaign.config, slurm=settings)))


def _try(step: Callable[[], None], *, say: Say) -> None:
    try:
        step()
    except SlurmError as error:
        say(f"{error}; look with squeue --me")

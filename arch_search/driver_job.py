"""The driver as a chain of small jobs: each one submits the next, which waits in the queue until this one has ended.

So a time limit, a preemption or a lost node costs a wait in the queue and nothing else. Job k of a campaign has the
comment asx-<uuid>-driver-k for ever: whoever submits it again finds it, so that there is one chain.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from arch_search.campaign import Campaign
from arch_search.errors import CampaignError
from arch_search.launching import make_service_launcher, setup_lines
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.records import canonical_json
from slurm.errors import UnavailableError
from slurm.service import ServiceJob, ServiceState
from slurm.units import Resources

WARN_S = 300  # before its time limit a driver is told to end; Slurm may say so a minute early or late
_LIVING = (ServiceState.WAITING, ServiceState.HELD, ServiceState.RUNNING)

JOB_ID = "ARCH_SEARCH_DRIVER_JOB_ID"  # environment variable of a driver that is a job

# Arguments: campaign folder, then the driver's command. A driver that was killed or failed is started again; after
# three failures in a row, each within ten minutes, the campaign is stopped, or the next job would fail likewise.
# What the driver submits must not inherit the variables of its own job.
_LOOP = f"""
folder=$1; shift
export {JOB_ID}=$SLURM_JOB_ID
for name in $(compgen -e SLURM_); do
  case $name in SLURM_CONF|SLURM_CLUSTERS) ;; *) unset "$name" ;; esac
done
ending=0; failures=0; child=
trap 'ending=1; [ -z "$child" ] || kill -USR1 "$child"' USR1
trap 'ending=1; [ -z "$child" ] || kill -TERM "$child"' TERM
while [ "$ending" -eq 0 ]; do
  began=$SECONDS
  "$@" & child=$!
  wait "$child"; code=$?
  while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
  child=
  [ "$code" -ne 0 ] && [ "$ending" -eq 0 ] || exit 0
  [ $((SECONDS - began)) -lt 600 ] || failures=0
  failures=$((failures + 1))
  if [ "$failures" -ge 3 ]; then
    echo "the driver failed 3 times in a row: stopping the campaign" >&2
    "$1" -m arch_search.cli stop "$folder"
    exit 1
  fi
  echo "the driver ended with exit code $code: starting it again" >&2
  sleep $((failures * 10 - 9)) & wait $!
done
"""


def queued(campaign: Campaign) -> ServiceJob | None:
    """The driver job that runs or waits, the running one first.

    Raises:
        UnavailableError: Slurm does not answer, so that nobody knows.
    """
    living = _living(campaign)
    return living[0] if living else None


def submit_first(campaign: Campaign, words: Sequence[str]) -> ServiceJob:
    """Start a chain where none lives; the caller holds the campaign's lease.

    Args:
        words: what `arch-search run` gets in the job to find the campaign and its settings.

    Raises:
        SubmitError: Slurm refuses.
        UnavailableError: Slurm does not answer.
    """
    number = _newest_number(campaign)
    was_submitted = _find(campaign, number) is not None
    return _submit(campaign, number + 1 if was_submitted or not number else number, words, after=None)


def submit_next(campaign: Campaign, number: int, words: Sequence[str]) -> None:
    """Called in job `number` as its first act: put the next job into the queue, behind this one."""
    if _newest_number(campaign) <= number + 1:
        _submit(campaign, number + 1, words, after=f"afterany:{os.environ[JOB_ID]}")


def cancel_chain(campaign: Campaign) -> None:
    """Take the driver's jobs out of the queue; the one this process belongs to is left to end by itself.

    Raises:
        UnavailableError: Slurm does not answer.
    """
    for job in _living(campaign):
        if job.job_id != os.environ.get(JOB_ID):
            make_service_launcher(campaign).cancel(job)


def driver_resources(campaign: Campaign) -> Resources:
    settings = campaign.config.slurm
    own = settings.driver
    return Resources(
        cpus_per_task=own.cpus_per_task,
        memory_gb=own.memory_gb,
        timeout_min=own.timeout_min,
        partition=own.partition,
        account=settings.account,
        qos=own.qos,
        mail_user=settings.mail_user,
        mail_type=settings.mail_type,
        setup=setup_lines(replace(settings, container=None)),
        extra_sbatch={"requeue": True},
    )


def _submit(campaign: Campaign, number: int, words: Sequence[str], *, after: str | None) -> ServiceJob:
    # on file first: a number that was given away is looked for in Slurm, whoever asks next
    write_atomic(_chain_file(campaign), canonical_json({"number": number}).encode())
    python = f"{campaign.config.slurm.venv}/bin/python" if campaign.config.slurm.venv else sys.executable
    run = [python, "-m", "arch_search.cli", "run", f"--driver-job={number}", *words]
    return make_service_launcher(campaign).submit(
        ["bash", "-c", _LOOP, "driver", str(campaign.paths.root), *run],
        resources=driver_resources(campaign),
        folder=_folder(campaign),
        name=f"asx-{campaign.config.campaign.name}-driver",
        comment=_comment(campaign, number),
        environment={"OMP_NUM_THREADS": "1"},
        warn_s=min(WARN_S, campaign.config.slurm.driver.timeout_min * 60 // 4),
        after=after,
        group="slurm.driver",
    )


def _living(campaign: Campaign) -> list[ServiceJob]:
    """Jobs of the chain that are not over: at most the newest and the one before."""
    number = _newest_number(campaign)
    jobs = [job for one in (number - 1, number) if (job := _find(campaign, one)) is not None]
    if not jobs:
        return []
    try:
        states = make_service_launcher(campaign).states_now(jobs)
    except UnavailableError as error:
        raise UnavailableError(f"{error}; whether a driver job is queued is not known now, try again") from error
    return [job for job in jobs if states[job.comment].state in _LIVING]


def _find(campaign: Campaign, number: int) -> ServiceJob | None:
    if number <= 0:
        return None
    return make_service_launcher(campaign).find(_comment(campaign, number), folder=_folder(campaign))


def _newest_number(campaign: Campaign) -> int:
    file = _chain_file(campaign)
    if not file.exists():
        return 0
    number = read_json(file).get("number")
    if not isinstance(number, int):
        raise CampaignError(f"{file}: not the number of a driver job; remove it when no driver job is in the queue")
    return number


def _comment(campaign: Campaign, number: int) -> str:
    return f"asx-{campaign.uuid}-driver-{number}"


def _folder(campaign: Campaign) -> Path:
    return campaign.paths.driver / "jobs"


def _chain_file(campaign: Campaign) -> Path:
    return campaign.paths.driver / "chain.json"

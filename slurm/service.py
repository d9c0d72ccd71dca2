"""Services: one long-lived job that is no array (a model server, a driver), submitted write-ahead and found again.

The script is our own text and not submitit's: it lies in its folder before sbatch is called, so that a crash in between
leaves nothing that nobody can read; and a job that is neither pickled nor an array needs nothing else of submitit.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slurm import site
from slurm.advice import PHASES, Phase
from slurm.client import Look, SlurmClient, client_environment, run_client
from slurm.errors import SlurmError, SubmitError, UnavailableError
from slurm.files import write_atomic
from slurm.refusals import explain
from slurm.service_text import ServiceState, ServiceStatus, ending, judge_row, sbatch_options, service_script
from slurm.states import ArrayRow
from slurm.units import Resources

__all__ = ["ServiceJob", "ServiceLauncher", "ServiceState", "ServiceStatus"]

SBATCH_LIMIT_S = 120.0
_KEPT_VARIABLES = ("SLURM_CONF", "SLURM_CLUSTERS")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceJob:
    """The receipt of one service. `name` is its job name: what the caller gave and a hash of the comment."""

    name: str
    comment: str
    job_id: str
    folder: str
    submitted_unix: float

    @property
    def log(self) -> Path:
        """What the job printed, if it ran."""
        return _desk(Path(self.folder), self.comment) / f"{self.job_id}.out"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Intent:
    """What is on file before sbatch is called."""

    name: str
    comment: str
    submitted_unix: float


class ServiceLauncher:
    """Submits and watches services. squeue is called at most once per `poll_s`, more seldom after failures.

    `clock` gives seconds since 1970; `ledger` is the folder in which a campaign shares the answers of squeue.
    """

    def __init__(self, *, poll_s: float, clock: Callable[[], float] = time.time, ledger: Path | None = None) -> None:
        self._clock = clock
        self._client = SlurmClient(poll_s=poll_s, clock=clock, folder=ledger)
        self._endings: dict[str, str] = {}

    def submit(
        self,
        command: Sequence[str],
        *,
        resources: Resources,
        folder: Path,
        name: str,
        comment: str,
        environment: Mapping[str, str],
        warn_s: int = 0,
        after: str | None = None,
        group: str = "slurm",
    ) -> ServiceJob:
        """Submit one job that replaces its shell by `command`; called again with the same comment, the same job.

        Args:
            folder: takes `<hash of the comment>/` with the script, the intent, the job id and the job's output.
            comment: names the service for ever; a service that is to be started anew needs a new one.
            warn_s: the command gets SIGUSR1 so many seconds before its time limit; 0 for no signal.
            after: a dependency in Slurm's words, as "afterany:4711".
            group: where the settings of `resources` stand, for the words of a refusal.

        Raises:
            SubmitError: sbatch refused; calling again is safe.
            UnavailableError: slurmctld does not answer, so that nobody knows whether an earlier call came through.
        """
        _check_words(name=name, comment=comment)
        desk, job_name = _desk(folder, comment), _job_name(name, comment)
        options = sbatch_options(resources) | {
            "job-name": job_name,
            "comment": comment,
            "output": f"{str(desk).replace('%', '%%')}/%j.out",
            "open-mode": "append",
            **({"signal": f"B:USR1@{warn_s}"} if warn_s else {}),
            **({"dependency": after} if after else {}),
        }
        with _locked(desk) as lock:
            found = self.find(comment, folder=folder)
            if found is not None:
                return found
            script, intent = desk / "script.sh", _Intent(name=job_name, comment=comment, submitted_unix=self._clock())
            text = service_script(command, options, setup=resources.setup, environment=environment)
            write_atomic(script, text.encode())
            write_atomic(desk / "intent.json", json.dumps(asdict(intent)).encode())
            done = _sbatch(script, lock=lock)
            match = re.match(r"(\d+)", done.stdout) if done.returncode == 0 else None
            # sbatch may fail or time out after slurmctld has taken the job
            job_id = match[1] if match else self._job_id(intent)
        if job_id is None:
            said = done.stderr.strip() or f"no answer within {SBATCH_LIMIT_S:g} s, exit code {done.returncode}"
            raise SubmitError(f"sbatch of {job_name} failed: {explain(said, resources, run_client, group=group)}")
        return _record(desk, intent, job_id)

    def find(self, comment: str, *, folder: Path) -> ServiceJob | None:
        """The service with this comment; None where it was never submitted, or its sbatch never came through.

        Raises:
            UnavailableError: the receipt is missing and Slurm does not answer.
        """
        desk = _desk(folder, comment)
        receipt, intent = _read(desk / "job.json"), _read(desk / "intent.json")
        if receipt is not None:
            return ServiceJob(**{**receipt, "folder": str(folder.absolute())})
        if intent is None:
            return None
        job_id = self._job_id(_Intent(**intent))
        return None if job_id is None else _record(desk, _Intent(**intent), job_id)

    def state(self, job: ServiceJob) -> ServiceStatus:
        """How one service stands; see `states`."""
        return self.states([job])[job.comment]

    def states(self, jobs: Iterable[ServiceJob]) -> dict[str, ServiceStatus]:
        """How each service stands, by its comment, from at most one call of squeue."""
        look = self._client.queue()
        return {job.comment: self._status(job, look) for job in jobs}

    def states_now(self, jobs: Iterable[ServiceJob]) -> dict[str, ServiceStatus]:
        """The same, asked in this moment: for a command of the user, whom a kept answer would mislead.

        Raises:
            UnavailableError: Slurm does not answer, so that nobody knows.
        """
        look = self._client.queue_now()
        return {job.comment: self._status(job, look) for job in jobs}

    def cancel(self, job: ServiceJob) -> None:
        """Ask Slurm to end the job, by its name: an id may belong to somebody else by now. Raises UnavailableError."""
        run_client(["scancel", "--quiet", f"--user={os.geteuid()}", f"--name={job.name}"])

    def _status(self, job: ServiceJob, look: Look) -> ServiceStatus:
        if job.comment in self._endings:
            return ServiceStatus(state=ServiceState.ENDED, reason=self._endings[job.comment])
        row = next((row for row in look.answer.singles if row.name == job.name), None)
        if row is None and look.taken_unix < job.submitted_unix:
            return ServiceStatus(state=ServiceState.WAITING, reason=f"job {job.job_id} was submitted just now")
        if row is None and (look.problem or not look.answer.whole):
            return ServiceStatus(state=ServiceState.UNKNOWN, reason=look.problem or "squeue's answer can't be read")
        status = judge_row(row) if row else ServiceStatus(state=ServiceState.ENDED, reason=self._ending(job))
        if status.state is ServiceState.ENDED:
            self._endings[job.comment] = status.reason
        return status

    def _ending(self, job: ServiceJob) -> str:
        """How a job ended that squeue has forgotten, from the accounting where there is one."""
        rows: list[ArrayRow] = []
        with suppress(UnavailableError):
            rows = [row for row in self._remembered(job.name, job.submitted_unix) if row.job_id == job.job_id]
        if rows and PHASES.get(rows[-1].word) is Phase.OVER:
            return ending(job.job_id, rows[-1].word)
        return f"Slurm does not know job {job.job_id} any more"

    def _job_id(self, intent: _Intent) -> str | None:
        """The job of this name, from squeue or else from the accounting; raises UnavailableError."""
        rows = [row for row in self._client.queue_now().answer.singles if row.name == intent.name]
        rows = rows or self._remembered(intent.name, intent.submitted_unix)
        return min((row.job_id for row in rows), key=int, default=None)

    def _remembered(self, name: str, since_unix: float) -> list[ArrayRow]:
        if not site.read_limits().accounting:
            return []
        return [r for r in self._client.accounts_named([name], since_unix=since_unix).answer.singles if r.name == name]


def _sbatch(script: Path, *, lock: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        # a limit of its own: sbatch goes on when its caller is killed
        ["timeout", "--kill-after=5", f"{SBATCH_LIMIT_S:g}", "sbatch", "--parsable", str(script)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        pass_fds=(lock,),
        env=_submit_environment(),
        check=False,
    )


def _submit_environment() -> dict[str, str]:
    """Without the variables of a job that we may be in ourselves: the new job would inherit them."""
    return {
        key: value
        for key, value in client_environment().items()
        if not key.startswith("SLURM_") or key in _KEPT_VARIABLES
    }


def _desk(folder: Path, comment: str) -> Path:
    return folder.absolute() / _key(comment)


def _key(comment: str) -> str:
    return hashlib.sha256(comment.encode()).hexdigest()[:12]


def _job_name(name: str, comment: str) -> str:
    return f"{name}-{_key(comment)}"


@contextmanager
def _locked(desk: Path) -> Iterator[int]:
    """One submitter at a time; sbatch inherits the lock, so that after a kill of its caller the next waits for it."""
    desk.mkdir(parents=True, exist_ok=True)
    with (desk / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _record(desk: Path, intent: _Intent, job_id: str) -> ServiceJob:
    write_atomic(desk / "job.json", json.dumps(asdict(intent) | {"job_id": job_id}).encode())
    return ServiceJob(**asdict(intent), job_id=job_id, folder=str(desk.parent))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SlurmError(f"{path}: can't be read ({error}); the file is damaged") from error
    return data


def _check_words(*, name: str, comment: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise SubmitError(f"job name {name!r}: use letters, digits, dot, dash and underscore")
    if not comment or re.search(r"[|\x00-\x1f]", comment):
        raise SubmitError(f"comment {comment!r}: must not be empty nor hold a bar or control characters")

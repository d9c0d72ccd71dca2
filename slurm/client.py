"""Client programs of Slurm, politely: one call at a time with a deadline, answers kept, fewer calls after failures."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from slurm.errors import UnavailableError
from slurm.states import SACCT_FORMAT, SQUEUE_FORMAT, Answer, parse_sacct, parse_squeue

CALL_LIMIT_S = 60.0
_MOST_BACK_OFF = 5  # failures after which the pause between calls (poll_s, doubled by each failure) grows no more
_NOTHING = Answer(rows=(), whole=False)
_SACCT = ("sacct", "--noheader", "--parsable2", "--duplicates", "--allocations", f"--format={SACCT_FORMAT}")


def run_client(command: Sequence[str], *, limit_s: float = CALL_LIMIT_S) -> str:
    """Standard output of one client program.

    Raises:
        UnavailableError: not installed, no answer within `limit_s`, or failed. squeue also fails with exit code 0,
            an empty output and a message.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            env=client_environment(),
            check=False,
        )
    except FileNotFoundError as error:
        raise UnavailableError(f"{command[0]} is not on PATH; is this a node of a Slurm cluster?") from error
    except OSError as error:
        raise UnavailableError(f"{command[0]} can't be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{command[0]} did not answer within {limit_s:g} s; it is asked again later") from error
    output, message = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace").strip()
    if done.returncode != 0 or (not output and message):
        last = message.splitlines()[-1] if message else "no message"
        raise UnavailableError(f"{command[0]} failed with exit code {done.returncode}: {last}")
    return output


def client_environment() -> dict[str, str]:
    """The environment without the user's own filters and formats, in English, with array lists in full length."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SQUEUE_", "SACCT_"))}
    return {**kept, "LC_ALL": "C", "SLURM_BITSTR_LEN": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One answer and when it was asked for. `problem` says why there is none; then `answer` has no rows."""

    answer: Answer
    taken_unix: float
    problem: str | None = None


class SlurmClient:
    """squeue and sacct for one user, each called at most once per `poll_s`, more seldom after failures.

    `clock` gives seconds since 1970.
    """

    def __init__(self, *, poll_s: float, clock: Callable[[], float]) -> None:
        self._poll_s = poll_s
        self._clock = clock
        self._looks: dict[str, Look] = {}
        self._failures: dict[str, int] = {}

    def queue(self) -> Look:
        """Array elements of this user that slurmctld knows: active ones, and for MinJobAge those that are over."""
        return self._due("squeue") or self._ask_queue()

    def queue_now(self) -> Look:
        """The same, asked in this moment; for the few times where an answer kept from before would mislead.

        Raises:
            UnavailableError: no whole answer.
        """
        look = self._ask_queue()
        if look.problem or not look.answer.whole:
            raise UnavailableError(look.problem or "squeue gave an answer that can't be read in full; try again")
        return look

    def accounts(self, job_ids: Iterable[str]) -> Look:
        """What the accounting knows of these arrays; within `poll_s` the last answer, whatever it was asked for."""
        wanted = ["--jobs", ",".join(job_ids)]
        return self._due("sacct") or self._keep("sacct", [*_SACCT, *wanted], parse_sacct)

    def accounts_named(self, names: Iterable[str], *, since_unix: float) -> Look:
        """What the accounting knows of arrays with these job names submitted since then, asked in this moment."""
        age_s = max(0, int(self._clock() - since_unix)) + 60
        wanted = ["--user", str(os.geteuid()), "--name", ",".join(names), "--starttime", f"now-{age_s}"]
        return self._keep("sacct", [*_SACCT, *wanted], parse_sacct)

    def _ask_queue(self) -> Look:
        user = f"--user={os.geteuid()}"
        command = ["squeue", "--noheader", "--states=all", user, f"--format={SQUEUE_FORMAT}"]
        return self._keep("squeue", command, parse_squeue)

    def _due(self, program: str) -> Look | None:
        """The kept answer while it is too early for the next call."""
        look = self._looks.get(program)
        pause_s = self._poll_s * 2 ** min(self._failures.get(program, 0), _MOST_BACK_OFF)
        # abs: after a clock that was set back the next call is not put off for hours
        return look if look is not None and abs(self._clock() - look.taken_unix) < pause_s else None

    def _keep(self, program: str, command: Sequence[str], parse: Callable[[str], Answer]) -> Look:
        # the answer is as old as the question: what is submitted meanwhile may not be in it
        asked_unix = self._clock()
        try:
            look = Look(answer=parse(run_client(command)), taken_unix=asked_unix)
            self._failures[program] = 0
        except UnavailableError as error:
            look = Look(answer=_NOTHING, taken_unix=asked_unix, problem=str(error))
            self._failures[program] = self._failures.get(program, 0) + 1
        self._looks[program] = look
        return look

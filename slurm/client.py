"""Client programs of Slurm, politely: one call at a time with a deadline, answers kept, fewer calls after failures."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from slurm.errors import UnavailableError
from slurm.ledger import Call, Ledger, Reply
from slurm.states import SACCT_FORMAT, SQUEUE_FORMAT, Answer, parse_sacct, parse_squeue

CALL_LIMIT_S = 60.0
POLL_LEAST_S = 30.0
POLL_VARIABLE = "ARCH_SEARCH_POLL_LEAST_S"  # lowers the above, for a Slurm of one's own
_MOST_BACK_OFF = 5  # failures after which the pause between calls (poll_s, doubled by each failure) grows no more
_JITTER = 0.25  # of that pause, at most, is added by chance
_NOTHING = Answer(rows=(), whole=False)
_SACCT = ("sacct", "--noheader", "--parsable2", "--duplicates", f"--format={SACCT_FORMAT}")


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


def least_poll_s() -> float:
    """The shortest time between two calls that a campaign may ask for; a cluster of tests may lower it."""
    return float(os.environ.get(POLL_VARIABLE, POLL_LEAST_S))


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One answer and when it was asked for. `problem` says why there is none; then `answer` has no rows."""

    answer: Answer
    taken_unix: float
    problem: str | None = None


class SlurmClient:
    """squeue and sacct for one user, each called at most once per `poll_s`, more seldom after failures.

    Args:
        poll_s: the least time between two calls of one program.
        clock: seconds since 1970.
        folder: where the calls and answers are written down, so that all programs of a campaign, ticks that live for
            a second included, share them; None: this object alone keeps them.
        ask: what runs a client program; None: run_client.
        rng: spreads the calls after a failure, so that many campaigns do not come back at the same moment.
    """

    def __init__(
        self,
        *,
        poll_s: float,
        clock: Callable[[], float],
        folder: Path | None = None,
        ask: Callable[[Sequence[str]], str] | None = None,
        rng: Random | None = None,
    ) -> None:
        self._poll_s = poll_s
        self._clock = clock
        self._ledger = Ledger(folder)
        self._ask = ask or run_client
        self._rng = rng or Random()
        self._looks: dict[str, Look] = {}

    def queue(self) -> Look:
        """Array elements of this user that slurmctld knows: active ones, and for MinJobAge those that are over."""
        return self._look("squeue", _squeue(), parse_squeue)

    def queue_now(self) -> Look:
        """The same, asked in this moment; for the few times where an answer kept from before would mislead.

        Raises:
            UnavailableError: no whole answer, or squeue failed so short a time ago that it is not asked again yet.
        """
        look = self._look("squeue", _squeue(), parse_squeue, urgent=True)
        if look.problem or not look.answer.whole:
            raise UnavailableError(look.problem or "squeue gave an answer that can't be read in full; try again")
        return look

    def accounts(self, job_ids: Iterable[str]) -> Look:
        """What the accounting knows of these arrays; within `poll_s` the last answer, whatever it was asked for."""
        return self._look("sacct", [*_SACCT, "--jobs", ",".join(job_ids)], parse_sacct)

    def accounts_named(self, names: Iterable[str], *, since_unix: float) -> Look:
        """What the accounting knows of arrays with these job names submitted since then, asked in this moment."""
        age_s = max(0, int(self._clock() - since_unix)) + 60
        wanted = ["--user", str(os.geteuid()), "--name", ",".join(names), "--starttime", f"now-{age_s}"]
        return self._look("sacct", [*_SACCT, *wanted], parse_sacct, urgent=True)

    def _look(
        self, program: str, command: Sequence[str], parse: Callable[[str], Answer], *, urgent: bool = False
    ) -> Look:
        """Ask where it is time for that; otherwise the kept answer. An urgent question only waits after failures."""
        with self._ledger.turn(program, wait_s=2 * CALL_LIMIT_S if urgent else 0.0) as is_ours:
            last = self._ledger.last_call(program)
            if urgent and not is_ours:
                return _no_look(f"another program of this campaign waits for {program}; try again", self._clock())
            if not is_ours or (last is not None and self._is_early(last, urgent=urgent)):
                return self._kept(program, parse, last)
            # the answer is as old as the question: what is submitted meanwhile may not be in it
            asked_unix = self._clock()
            failures = 0 if last is None else last.failures
            # written ahead, so that a driver that dies in the call has asked all the same
            self._ledger.note_call(program, self._call(asked_unix, failures))
            text, problem = "", None
            try:
                text, failures = self._ask(command), 0
            except UnavailableError as error:
                problem, failures = str(error), failures + 1
            self._ledger.note_call(program, self._call(asked_unix, failures))
            self._ledger.keep(program, Reply(asked_unix=asked_unix, problem=problem, text=text))
            self._looks[program] = _make_look(asked_unix, problem, text, parse)
            return self._looks[program]

    def _is_early(self, last: Call, *, urgent: bool) -> bool:
        # abs: after a clock that was set back the next call is not put off for hours
        return (last.failures > 0 or not urgent) and abs(self._clock() - last.asked_unix) < last.pause_s

    def _call(self, asked_unix: float, failures: int) -> Call:
        pause_s = self._poll_s * 2 ** min(failures, _MOST_BACK_OFF)
        jitter_s = self._rng.uniform(0, _JITTER * pause_s) if failures else 0.0
        return Call(asked_unix=asked_unix, pause_s=pause_s + jitter_s, failures=failures)

    def _kept(self, program: str, parse: Callable[[str], Answer], last: Call | None) -> Look:
        """The newest answer, from here or from another program of the campaign; a text is read only once."""
        mine = self._looks.get(program)
        reply = self._ledger.reply(program, after_unix=mine.taken_unix if mine else None)
        if reply is not None:
            self._looks[program] = mine = _make_look(reply.asked_unix, reply.problem, reply.text, parse)
        if mine is not None:
            return mine
        asked_unix = last.asked_unix if last else self._clock()
        return _no_look(f"{program} was asked by another program of this campaign and has not answered yet", asked_unix)


def _squeue() -> list[str]:
    return ["squeue", "--noheader", "--states=all", f"--user={os.geteuid()}", f"--format={SQUEUE_FORMAT}"]


def _no_look(problem: str, asked_unix: float) -> Look:
    return Look(answer=_NOTHING, taken_unix=asked_unix, problem=problem)


def _make_look(asked_unix: float, problem: str | None, text: str, parse: Callable[[str], Answer]) -> Look:
    return _no_look(problem, asked_unix) if problem else Look(answer=parse(text), taken_unix=asked_unix)

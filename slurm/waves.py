"""Waves: the arrays of one submission, submitted as the queue has room, each written down before and never twice."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from slurm import batch
from slurm.advice import LAUNCH_FAILED
from slurm.batch import Batch, NoAnswerError
from slurm.client import SlurmClient
from slurm.errors import UnavailableError
from slurm.files import Desk, Intent, Plan, write_atomic
from slurm.states import ArrayRow, Phase
from slurm.units import ArrayJob, Resources

_LOCK_WAIT_S = 2.0  # an sbatch takes less; one that hangs is looked at again later
_FORGETTING_S = 60  # so long before MinJobAge the absence from squeue still proves that there is no such job


class Waves:
    """What is known of one submission's arrays: the receipt's, and those on its desk.

    `arrays` are those that were submitted, by offset; `chained` are job ids of arrays that wait for all before them.
    """

    def __init__(self, desk: Desk, plan: Plan | None, *, received: Sequence[ArrayJob], clock: Callable[[], float]):
        self.desk = desk
        self.plan = plan
        self.chained: set[str] = set()
        self._clock = clock
        known = {array.offset: array for array in (*received, *desk.read_jobs())}
        self.arrays = [known[offset] for offset in sorted(known)]
        self._id_at = {array.offset: array.job_id for array in self.arrays}
        self._intents = desk.read_intents() if plan else []

    @property
    def is_unsettled(self) -> bool:
        """Whether nobody knows if an array was submitted that a driver was about to submit."""
        return bool(self._intents)

    @property
    def next_offset(self) -> int:
        """First unit that is in no array yet."""
        return self.arrays[-1].offset + self.arrays[-1].count if self.arrays else 0

    @property
    def left(self) -> int:
        """Units that are in no array yet and are to be submitted."""
        return 0 if self.plan is None or self.is_cancelled() else len(self.plan.units) - self.next_offset

    def is_cancelled(self) -> bool:
        return self.desk.cancelled.exists()

    def owns(self, row: ArrayRow) -> bool:
        """Job ids start from 1 again when a site loses its state, so the id alone does not make a row ours."""
        return row.comment == self.desk.comment or f"-{self.desk.key}-" in row.name

    def settle(self, client: SlurmClient, *, has_accounting: bool, min_job_age_s: int) -> None:
        """Find out what became of arrays that a killed driver was about to submit, and put it on record.

        Raises:
            UnavailableError: nobody knows at present.
        """
        if not self._intents:
            return
        with self._no_sbatch():
            names = {self._job_name(intent.offset): intent for intent in self._intents}
            found = self._ids_by_offset(client.queue_now().answer.rows)
            lacking = [name for name, intent in names.items() if intent.offset not in found]
            if lacking and has_accounting:
                since_unix = min(intent.written_unix for intent in self._intents)
                look = client.accounts_named(lacking, since_unix=since_unix)
                is_fresh = self._clock() - since_unix < min_job_age_s - _FORGETTING_S
                if look.problem and not is_fresh:
                    raise UnavailableError(f"{look.problem}; without it nobody knows what an earlier driver submitted")
                found = {**self._ids_by_offset(look.answer.rows), **found}
            for intent in self._intents:
                if intent.offset in found:
                    self._record(intent, found[intent.offset])
                else:
                    self.desk.intent(intent.offset).unlink(missing_ok=True)
            self._intents = []

    def submit(self, resources: Resources, one: Batch, client: SlurmClient) -> ArrayJob:
        """Submit one array and put its job id on record.

        Raises:
            NoRoomError, RefusedError: nothing was submitted.
            UnavailableError: nobody knows; `settle` finds out.
        """
        plan = self._plan()
        intent = Intent(offset=one.offset, count=one.count, token=secrets.token_hex(8), written_unix=self._clock())
        write_atomic(self.desk.commands(one.offset), batch.command_lines(self.desk, plan, one).encode())
        self._intents = [intent]
        self.desk.write_intent(intent)
        try:
            job_id = batch.submit(resources, self.desk, plan, one, intent)
        except NoAnswerError as error:
            # sbatch may fail or time out after slurmctld has taken the job
            taken = self._ids_by_offset(client.queue_now().answer.rows).get(one.offset)
            if taken is None:
                raise error
            job_id = taken
        except (batch.NoRoomError, batch.RefusedError):
            self.desk.intent(one.offset).unlink(missing_ok=True)
            self._intents = []
            raise
        self._intents = []
        if one.after:
            self.chained.add(job_id)
        return self._record(intent, job_id)

    def doubles(self, rows_of_jobs: Mapping[str, Sequence[ArrayRow]]) -> list[str]:
        """Active arrays with the name of one on record, but another job id: only a late sbatch can have made them."""
        found = []
        for job_id, rows in rows_of_jobs.items():
            known = self._id_at.get(self._offset_of(rows[0]))
            if known not in (None, job_id) and any(row.phase is not Phase.OVER for row in rows):
                found.append(job_id)
        return found

    def waiting(self, rows_of_jobs: Mapping[str, Sequence[ArrayRow]]) -> list[str]:
        """Arrays on record with elements that have not started or are to start again."""
        mine = ((array.job_id, rows_of_jobs.get(array.job_id, ())) for array in self.arrays)
        waits = (Phase.WAITING, Phase.HELD)
        return [job_id for job_id, rows in mine if any(self.owns(row) and row.phase in waits for row in rows)]

    def active(self, rows_of_jobs: Mapping[str, Sequence[ArrayRow]]) -> bool:
        """Whether any element on record is in the queue, in whatever state."""
        rows = (row for array in self.arrays for row in rows_of_jobs.get(array.job_id, ()))
        return any(self.owns(row) and row.phase is not Phase.OVER for row in rows)

    def failed_launches(self, rows_of_jobs: Mapping[str, Sequence[ArrayRow]]) -> list[str]:
        """Elements that Slurm holds because their launch failed, as <job>_<index>."""
        rows = (row for array in self.arrays for row in rows_of_jobs.get(array.job_id, ()) if self.owns(row))
        held = (row for row in rows if row.phase is Phase.HELD and row.reason == LAUNCH_FAILED)
        return [f"{row.job_id}_{index}" for row in held for part in row.indices for index in part]

    def _record(self, intent: Intent, job_id: str) -> ArrayJob:
        job = ArrayJob(job_id=job_id, offset=intent.offset, count=intent.count, submitted_unix=self._clock())
        self.desk.write_job(job)
        self.arrays.append(job)
        self._id_at[job.offset] = job_id
        return job

    def _plan(self) -> Plan:
        assert self.plan is not None
        return self.plan

    def _job_name(self, offset: int) -> str:
        return batch.job_name(self._plan(), self.desk.key, offset)

    def _offset_of(self, row: ArrayRow) -> int:
        """First unit of the array that the row is about; -1 where it is none of ours."""
        _, mark, offset = row.name.rpartition(f"-{self.desk.key}-")
        return int(offset) if mark and offset.isdigit() else -1

    def _ids_by_offset(self, rows: Sequence[ArrayRow]) -> dict[int, str]:
        """The first array of each job name: a second one of the same name can only be a later mistake."""
        found: dict[int, str] = {}
        for row in rows:
            offset = self._offset_of(row)
            if offset >= 0:
                found[offset] = min(found.get(offset, row.job_id), row.job_id, key=int)
        return found

    @contextmanager
    def _no_sbatch(self) -> Iterator[None]:
        """Wait until no sbatch of a killed driver lives; a later one finds that its intent is gone."""
        handle = os.open(self.desk.submit_lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            deadline = time.monotonic() + _LOCK_WAIT_S
            while not _is_taken(handle):
                if time.monotonic() > deadline:
                    raise UnavailableError("an sbatch of an earlier driver has not ended yet; it is looked at again")
                time.sleep(0.05)
            yield
        finally:
            os.close(handle)


def _is_taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

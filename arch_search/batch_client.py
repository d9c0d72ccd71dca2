"""A model client without a server: the requests that wait at the same time become one offline job in the queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from arch_search.agents.call_log import CallLog
from arch_search.campaign import Campaign
from arch_search.errors import ModelServerError, ReplyError, ReplyPendingError
from arch_search.launching import make_service_launcher
from arch_search.model_job import find_job, submit_job
from arch_search.paths import BatchPaths
from arch_search.protocols import ModelReply, ModelRequest
from arch_search.serving import batch, environment, order, weights
from arch_search.serving.order import Ending
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json
from slurm.errors import SlurmError, UnavailableError
from slurm.service import ServiceJob, ServiceState

ATTEMPTS = 3  # jobs for one batch; a later one asks only what is left
_LOOK_S = 1.0
_PAUSE_S = 60.0  # after Slurm did not answer or had no room


class BatchClient:
    """A ModelClient for use from many threads; each waits until the job that holds its request is over.

    Args:
        comes_back: do not wait for a job; its replies are there for the same requests of a later process.
        quiet_s: a batch is closed when so long no further request came.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        campaign: Campaign,
        log: CallLog,
        *,
        say: Callable[[str], None],
        comes_back: bool = False,
        quiet_s: float = 3.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._campaign = campaign
        self._llm = campaign.config.llm
        self._log = log
        self._say = say
        self._comes_back = comes_back
        self._quiet_s = quiet_s
        self._clock = clock
        self._launcher = make_service_launcher(campaign, clock=clock)
        self._changed = threading.Condition()
        self._waiting: dict[str, ModelRequest] = {}
        self._last = 0.0
        self._refused: dict[str, str] = {}
        self._problem: ModelServerError | ReplyPendingError | None = None
        self._worker: threading.Thread | None = None
        self._note = ""

    def complete(self, request: ModelRequest) -> ModelReply:
        """The reply, from the call log where the key was answered before.

        Raises:
            ReplyError: the server refused this one request.
            ReplyPendingError: a job is in the queue for it, and this client comes back.
            ModelServerError: the batch failed in ATTEMPTS jobs, or could not be submitted.
        """
        with self._changed:
            while True:
                known = self._log.find(request.key)
                if known is not None:
                    return known
                if request.key in self._refused:
                    raise ReplyError(self._refused[request.key])
                if self._problem is not None:
                    raise self._problem
                if request.key not in self._waiting:
                    self._waiting[request.key], self._last = request, time.monotonic()
                    self._start()
                self._changed.wait(_LOOK_S)

    def _start(self) -> None:
        if self._worker is None or not self._worker.is_alive():
            environment.require_environment(self._llm)
            weights.require_weights(self._llm)
            self._worker = threading.Thread(target=self._work, name="batches", daemon=True)
            self._worker.start()

    def _work(self) -> None:
        """Finish what an earlier driver began, then one batch after the other; ends at the first failure."""
        try:
            for number in _on_file(self._campaign):
                self._finish(self._campaign.paths.batch(number), number)
            while True:
                gathered = self._gathered()
                if gathered:
                    number = max(_on_file(self._campaign), default=0) + 1
                    paths = self._campaign.paths.batch(number)
                    order.write_order(self._llm, paths.server.order)
                    batch.write_requests(gathered, paths.requests)
                    self._say(f"batch {number}: {len(gathered)} requests to the model")
                    self._finish(paths, number)
                time.sleep(_LOOK_S)
        except ReplyPendingError as pending:
            self._give_up(pending)
        except (ModelServerError, SlurmError, StoreError, OSError) as error:
            self._give_up(ModelServerError(str(error)))

    def _give_up(self, problem: ModelServerError | ReplyPendingError) -> None:
        with self._changed:
            self._problem = problem
            self._changed.notify_all()

    def _gathered(self) -> list[ModelRequest]:
        """The requests that wait, once no further one has come for a while."""
        with self._changed:
            if time.monotonic() - self._last < self._quiet_s:
                return []
            return [self._waiting[key] for key in sorted(self._waiting)]

    def _finish(self, paths: BatchPaths, number: int) -> None:
        """See one batch to its end and hand its replies over."""
        requests = batch.read_requests(paths.requests)
        if order.read_ending(paths.server.over) is None:
            ending = self._run(paths, number)
            order.write_ending(ending, paths.server.over)
            if ending.failed:
                raise ModelServerError(
                    f"batch {number} failed in {ATTEMPTS} jobs, the last one: {ending.reason}; "
                    f"its log is {paths.server.log}"
                )
        self._record(paths, requests)
        refused = read_json(paths.refused) if paths.refused.exists() else {}
        with self._changed:
            self._refused.update(refused)
            for request in requests:
                self._waiting.pop(request.key, None)
            self._changed.notify_all()

    def _run(self, paths: BatchPaths, number: int) -> Ending:
        """How the job ended that answered the whole batch, or else the last attempt; `cancel_batches` ends it too."""
        for attempt in range(1, ATTEMPTS + 1):
            ending = self._attempt(paths, number, attempt)
            if not ending.failed:
                break
            if (cancelled := order.read_ending(paths.server.over)) is not None:
                return cancelled
            self._say(f"batch {number}: attempt {attempt} of {ATTEMPTS} failed: {ending.reason}")
        return ending

    def _attempt(self, paths: BatchPaths, number: int, attempt: int) -> Ending:
        """How the job of this attempt ended, of this driver or of an earlier one."""
        job = self._submitted(paths, number, attempt)
        own = paths.attempt(attempt)
        while True:
            ending = order.read_ending(own)
            if ending is not None:
                return ending
            status = self._launcher.state(job)
            if status.state is ServiceState.ENDED:
                # written by the job in its last moment, or never
                return order.read_ending(own) or Ending(reason=status.reason, failed=True, unix=self._clock())
            self._wait(f"batch {number}: {status.reason or status.state.value}", _LOOK_S)

    def _submitted(self, paths: BatchPaths, number: int, attempt: int) -> ServiceJob:
        words, name = ("arch_search.serving.batch", str(paths.root), str(attempt)), _job_name(number, attempt)
        while True:
            try:
                return submit_job(self._launcher, self._campaign, words, folder=paths.root, name=name)
            except UnavailableError as error:
                self._wait(f"batch {number}: {error}; trying again later", _PAUSE_S)

    def _record(self, paths: BatchPaths, requests: Sequence[ModelRequest]) -> None:
        replies = CallLog(paths.calls, paths.text)
        for request in requests:
            call = replies.call(request.key)
            if call is None or self._log.call(request.key) is not None:
                continue
            if call.refused:
                self._log.refuse(request, call.refused)
            elif (reply := replies.find(request.key)) is not None:
                self._log.record(request, reply)

    def _wait(self, note: str, seconds: float) -> None:
        """Say once what is waited for; raises ReplyPendingError with it where this client comes back instead."""
        if self._comes_back:
            raise ReplyPendingError(note)
        if note != self._note:
            self._note = note
            self._say(note)
        time.sleep(seconds)


def cancel_batches(campaign: Campaign, *, say: Callable[[str], None]) -> None:
    """End the jobs of batches that are not over. What they have answered is kept, the rest is asked again some day.

    Raises:
        UnavailableError: Slurm does not answer.
    """
    launcher = make_service_launcher(campaign)
    for number in _on_file(campaign):
        paths = campaign.paths.batch(number)
        if order.read_ending(paths.server.over) is not None:
            continue
        names = [_job_name(number, attempt) for attempt in range(1, ATTEMPTS + 1)]
        jobs = [find_job(launcher, campaign, folder=paths.root, name=name) for name in names]
        for job in filter(None, jobs):
            launcher.cancel(job)
        order.write_ending(Ending(reason="cancelled", failed=False, unix=time.time()), paths.server.over)
        say(f"batch {number} cancelled")


def _on_file(campaign: Campaign) -> list[int]:
    """The batches whose requests are known."""
    folder = campaign.paths.batches
    found = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if folder.exists() else []
    return sorted(number for number in found if campaign.paths.batch(number).requests.exists())


def _job_name(number: int, attempt: int) -> str:
    return f"batch-{number}-a{attempt}"

"""The fleet: model servers of a campaign that are Slurm jobs; submitted, watched, replaced, released.

All that is known of a server lies in its folder, so that a driver that is started anew finds it again. A thread keeps
the fleet while the driver works; a server counts as alive as long as it gives tokens, whatever /health or Slurm say.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from arch_search.campaign import Campaign
from arch_search.errors import ArchSearchError, ModelServerError
from arch_search.launching import make_service_launcher
from arch_search.model_job import WARN_S, find_job, submit_job
from arch_search.paths import ServerPaths
from arch_search.serving import environment, order, server, weights
from arch_search.serving.endpoint import Endpoint, JobEndpoint, read_job_endpoint
from arch_search.serving.order import Ending
from arch_search.serving.replacing import Phase, ServerView, next_step
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import write_atomic
from slurm.errors import SlurmError, UnavailableError
from slurm.service import ServiceJob, ServiceState

_LATE_S = 120.0  # beyond llm.start_limit_s, for what the job does before vLLM
_NAME = re.compile(r"r(\d+)-(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the fleet looks. Seconds."""

    step_s: float = 1.0
    probe_every_s: float = 60.0
    probe_again_s: float = 5.0  # after a failure of a probe or of a request
    probe_limit_s: float = 60.0  # for one token, which may wait behind long replies
    probes: int = 2  # so many failures in a row and the server is taken for dead
    pause_s: float = 60.0  # after Slurm did not answer or had no room


@dataclass(slots=True)
class _Server:
    """What one driver knows of one server; all but the counts comes from files and answers."""

    name: str
    paths: ServerPaths
    job: ServiceJob | None = None
    served: JobEndpoint | None = None
    ending: Ending | None = None
    is_draining: bool = False
    is_suspect: bool = True  # no requests until a probe from here has passed
    answered_unix: float | None = None  # the first such probe
    note: str = ""
    in_flight: int = 0
    strikes: int = 0
    probed: float = float("-inf")  # time.monotonic()
    running_since: float | None = None

    @property
    def replica(self) -> int:
        return int(self.name[1:].partition("-")[0])

    @property
    def phase(self) -> Phase:
        if self.ending is not None:
            return Phase.OVER
        if self.is_draining:
            return Phase.DRAINING
        return Phase.COMING if self.answered_unix is None else Phase.READY

    @property
    def takes_requests(self) -> bool:
        return self.phase is Phase.READY and not self.is_suspect

    @property
    def view(self) -> ServerView:
        served = self.served
        return ServerView(
            name=self.name,
            replica=self.replica,
            phase=self.phase,
            started_unix=served.started_unix if served else None,
            ends_unix=served.ends_unix if served else None,
            ending=self.ending,
        )


class Fleet:
    """Keeps `llm.job.replicas` servers and lends them to requests, one after the other.

    `start` begins to keep it in a thread, `release` ends every server; between them `take` and `give_back` are safe
    for use from several threads. `step` does what is due once. `require` raises where this driver may not submit.
    """

    are_replaced = True

    def __init__(
        self,
        campaign: Campaign,
        *,
        say: Callable[[str], None],
        require: Callable[[], None] = lambda: None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._campaign = campaign
        self._llm = campaign.config.llm
        self._say = say
        self._require = require
        self._pace = pace or Pace()
        self._clock = clock
        self._launcher = make_service_launcher(campaign, clock=clock)
        self._changed = threading.Condition()
        self._keeper: threading.Thread | None = None
        self._stopping = threading.Event()
        self._problem: str | None = None
        self._waits: tuple[str, ...] = ()
        self._servers = {one.name: one for one in self._on_file()}
        self._turn = itertools.count()
        self._asked_unix = _changed_unix(campaign.paths.calls)

    # ---- for the driver

    def start(self) -> None:
        """Keep the fleet from now on, as somebody is about to ask; returns at once.

        Raises:
            ModelServerError: environment or weights are not there.
        """
        self._asked_unix = self._clock()
        if self._keeper is None or not self._keeper.is_alive():
            environment.require_environment(self._llm)
            weights.require_weights(self._llm)
            self._problem = None
            self._stopping.clear()
            self._campaign.paths.servers_released.unlink(missing_ok=True)
            self._keeper = threading.Thread(target=self._keep, name="fleet", daemon=True)
            self._keeper.start()

    def waiting(self) -> str:
        """Why no request can be asked now; empty when one can. Raises ModelServerError when none ever will."""
        with self._changed:
            self._asked_unix = self._clock()
            if any(one.takes_requests for one in self._servers.values()):
                return ""
            self._raise_problem()
            coming = [one for one in self._servers.values() if one.phase is not Phase.OVER]
            notes = [one.note for one in coming if one.note] or list(self._waits)
            return f"model server: {'; '.join(dict.fromkeys(notes)) or 'being submitted'}"

    def tend(self) -> None:
        """One look at the servers there are, for a driver that asks nothing at present."""
        if any(one.ending is None for one in self._servers.values()) and self._keeper is None:
            self.step()

    def release(self) -> None:
        """End every server: nothing is left to ask."""
        if not self._servers:
            return
        write_atomic(self._campaign.paths.servers_released, b"")
        self.stop()
        for one in [one for one in self._servers.values() if one.ending is None]:
            self._retire(one, "released: nothing is left to ask", failed=False)

    def stop(self) -> None:
        """Stop keeping the fleet; its servers stay for the next driver."""
        self._stopping.set()
        if self._keeper is not None:
            # a probe of a hanging server takes longer; the thread does nothing more after it
            self._keeper.join(timeout=self._pace.probe_again_s)
            self._keeper = None

    # ---- for the client

    def take(self) -> Endpoint:
        """A server that gives tokens, each in its turn; waits until there is one. Raises ModelServerError."""
        with self._changed:
            while True:
                self._asked_unix = self._clock()
                ready = sorted((one for one in self._servers.values() if one.takes_requests), key=lambda one: one.name)
                if ready:
                    chosen = ready[next(self._turn) % len(ready)]
                    chosen.in_flight += 1
                    assert chosen.served is not None
                    return chosen.served.endpoint
                self._raise_problem()
                self._changed.wait(self._pace.step_s)

    def give_back(self, address: Endpoint, *, failed: bool) -> None:
        """The request is over; after a failed one the server is probed before it gets another."""
        with self._changed:
            for one in self._servers.values():
                if one.served is not None and one.served.endpoint is address:
                    one.in_flight -= 1
                    if failed and not one.is_suspect:
                        one.is_suspect, one.probed = True, float("-inf")
                    self._changed.notify_all()

    # ---- keeping

    def step(self) -> None:
        """Look at every server, then submit, drain and cancel what is due.

        Raises:
            ModelServerError: no server is left and too many have failed.
            SlurmError, StoreError: a refusal by sbatch; a folder that can't be written.
        """
        live = [one for one in self._servers.values() if one.ending is None]
        self._look(live)
        for one in live:
            self._probe_if_due(one)
        if self._stopping.is_set() or self._campaign.paths.servers_released.exists():
            return
        self._require()
        if self._is_idle():
            self._release_idle(live)
            return
        step = next_step(
            [one.view for one in self._servers.values()],
            replicas=self._llm.job.replicas,
            now_unix=self._clock(),
            replace_before_s=60 * self._llm.job.replace_before_min,
            most_failures=1 + self._llm.retries,
        )
        self._waits = step.waits
        for replica in step.submit:
            self._add(replica)
        for name in step.drain:
            self._say(f"model server {name}: gets no more requests, its successor is ready")
            self._servers[name].is_draining = True
        for one in [one for one in live if one.is_draining and one.ending is None and not one.in_flight]:
            self._retire(one, "replaced by its successor", failed=False)
        if step.given_up and all(one.ending is not None for one in self._servers.values()):
            self._forget_failures()
            raise ModelServerError(f"{step.given_up[0]}; its log is in {self._campaign.paths.servers}")

    def _keep(self) -> None:
        while not self._stopping.wait(self._pace.step_s):
            try:
                self.step()
            except UnavailableError as error:
                self._waits = (f"{error}; trying again in {self._pace.pause_s:.0f} s",)
                self._stopping.wait(self._pace.pause_s)
            except (ArchSearchError, SlurmError, StoreError, OSError) as error:
                self._problem = str(error)
                break
            finally:
                with self._changed:
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _is_idle(self) -> bool:
        is_asked = any(one.in_flight for one in self._servers.values())
        return not is_asked and self._clock() - self._asked_unix > 60 * self._llm.job.idle_min

    def _release_idle(self, live: list[_Server]) -> None:
        """No GPU stands still while trainings take their hours; what waits in the queue keeps its place."""
        limit_s = 60 * self._llm.job.idle_min
        for one in live:
            served = one.served if one.ending is None else None
            if served is not None and self._clock() - served.started_unix > limit_s:
                self._retire(one, f"released: not asked for {self._llm.job.idle_min:g} min", failed=False)

    def _look(self, live: list[_Server]) -> None:
        """Read what the jobs wrote, and for those that have not served yet what Slurm says."""
        for one in live:
            ending = order.read_ending(one.paths.ended)
            if ending is not None:
                self._over(one, ending)
            elif one.served is None:
                one.served = read_job_endpoint(one.paths.endpoint)
                if one.served is None and one.job is None:
                    self._submit(one)
        queued = {one.job.comment: one for one in live if one.job and one.ending is None and one.served is None}
        if queued:
            states = self._launcher.states([one.job for one in queued.values() if one.job])
            for comment, status in states.items():
                self._judge_queued(queued[comment], status.state, status.reason)

    def _judge_queued(self, one: _Server, state: ServiceState, reason: str) -> None:
        if state is ServiceState.ENDED:
            said = order.read_ending(one.paths.ended)
            self._over(one, said or Ending(reason=reason, failed=True, unix=self._clock()))
            return
        if state is ServiceState.RUNNING:
            one.running_since = one.running_since or time.monotonic()
            loading_s = time.monotonic() - one.running_since
            if loading_s > self._llm.start_limit_s + _LATE_S:
                self._retire(one, f"no token after {loading_s:.0f} s", failed=True)
            reason = f"loads since {loading_s:.0f} s"
        note = reason or f"is {state.value} in the queue"
        if note != one.note and not (state is ServiceState.RUNNING and one.note.startswith("loads")):
            self._say(f"model server {one.name}: {note}")
        one.note = note

    def _probe_if_due(self, one: _Server) -> None:
        pause_s = self._pace.probe_again_s if one.is_suspect else self._pace.probe_every_s
        is_due = one.served is not None and one.phase in (Phase.COMING, Phase.READY)
        if not is_due or time.monotonic() - one.probed < pause_s:
            return
        assert one.served is not None
        failure = server.probe_failure(one.served.endpoint, self._pace.probe_limit_s)
        one.probed = time.monotonic()
        if order.read_ending(one.paths.ended) is not None:
            return  # the next step takes it from there
        with self._changed:
            one.is_suspect, one.strikes = bool(failure), one.strikes + 1 if failure else 0
        if not failure and one.answered_unix is None:
            one.answered_unix = self._clock()
            self._say(f"model server {one.name} ready: job {one.served.job_id} on {one.served.node}")
        if failure:
            one.note = f"{one.name} at {one.served.endpoint.base_url} gives no token: {failure}"
            self._say(f"model server {one.note}")
        if one.strikes >= self._pace.probes:
            is_at_limit = self._clock() > one.served.ends_unix - WARN_S
            reason = "it reached its time limit" if is_at_limit else f"it gave no token: {failure}"
            self._retire(one, reason, failed=not is_at_limit)

    # ---- one server

    def _add(self, replica: int) -> None:
        numbers = [int(one.name.partition("-")[2]) for one in self._servers.values() if one.replica == replica]
        name = f"r{replica}-{max(numbers, default=0) + 1:04d}"
        one = _Server(name=name, paths=self._campaign.paths.server(name))
        order.write_order(self._llm, one.paths.order)
        self._submit(one)
        with self._changed:
            self._servers[name] = one

    def _submit(self, one: _Server) -> None:
        """Submit the job, or find it again: the same comment never makes a second one."""
        folder = one.paths.root
        words = ("arch_search.serving.job", str(folder))
        one.job = submit_job(self._launcher, self._campaign, words, folder=folder, name=f"llm-{one.name}")
        self._say(f"model server {one.name}: job {one.job.job_id}")

    def _retire(self, one: _Server, reason: str, *, failed: bool) -> None:
        folder, name = one.paths.root, f"llm-{one.name}"
        job = one.job or find_job(self._launcher, self._campaign, folder=folder, name=name)
        if job is not None:
            self._launcher.cancel(job)
        self._over(one, Ending(reason=reason, failed=failed, unix=self._clock()))

    def _over(self, one: _Server, ending: Ending) -> None:
        named = replace(ending, reason=f"{one.name}: {ending.reason}") if ending.failed else ending
        order.write_ending(named, one.paths.over)
        with self._changed:
            one.ending = named
        self._say(f"model server {one.name}: {ending.reason}")

    def _forget_failures(self) -> None:
        """So that the same command, run again by a person who has helped, tries again."""
        for one in self._servers.values():
            if one.ending is not None and one.ending.failed:
                order.write_ending(replace(one.ending, failed=False), one.paths.over)

    def _on_file(self) -> list[_Server]:
        folder = self._campaign.paths.servers
        names = sorted(path.name for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.exists() else []
        found = []
        for name in names:
            paths = self._campaign.paths.server(name)
            if paths.order.exists():
                served, ending = read_job_endpoint(paths.endpoint), order.read_ending(paths.over)
                found.append(_Server(name=name, paths=paths, served=served, ending=ending))
        return found

    def _raise_problem(self) -> None:
        if self._problem is not None:
            raise ModelServerError(self._problem)


def _changed_unix(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0

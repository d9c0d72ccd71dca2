"""The loop. `tick` does what is due once and returns; `run` is `tick` until the campaign is finished."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from arch_search.admitting import Admitter
from arch_search.agents.call_log import CallLog
from arch_search.baselines import require_domain
from arch_search.campaign import Campaign
from arch_search.closing import close_generation, merge_generation
from arch_search.compacting import compact
from arch_search.dispatch import Dispatcher
from arch_search.errors import CampaignError, CampaignPausedError, ReplyPendingError
from arch_search.generation import OpenSlots, admitted, open_slots, read_steering, read_tries
from arch_search.growing import grow
from arch_search.launching import make_launcher, preflight
from arch_search.lease import Lease
from arch_search.model_access import ModelAccess
from arch_search.opening import fixed_steering
from arch_search.proposing import Proposer
from arch_search.protocols import ModelClient
from arch_search.repeating import name_repeats
from arch_search.reporting import write_campaign_report
from arch_search.steering_files import paused_words, place_prompts
from arch_search.stopping import DriverStopped, StopWatch
from arch_search.training import data
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import unwritable_reason
from cognition_db.experience.journal import read
from cognition_db.records import Candidate, Evaluation, SlotTry
from slurm.errors import SlurmError, UnavailableError
from slurm.launchers import Launcher
from slurm.units import Order, Probe, Submission, UnitState, WorkUnit

_PAUSES = ("paused", "resumed")
LEAVING = "the last elements leave the queue"
# a slurmctld that was started anew notices within minutes that a job of its memory is no more
LEAVING_S = 300.0


@dataclass(frozen=True, slots=True)
class Tick:
    """What one tick did: `waiting` names what runs elsewhere and is worth looking at again later."""

    finished: bool
    waiting: str = ""


class Driver:
    """One campaign being driven. Everything it knows is in files; a new Driver goes on where a killed one was.

    It writes and submits only while `lease` is held, and raises DriverStopped soon after `watch` is asked to end it.
    `comes_back`: it is one of many ticks, which do not wait for what a job in the queue will answer.
    """

    def __init__(
        self,
        campaign: Campaign,
        say: Callable[[str], None],
        *,
        lease: Lease,
        watch: StopWatch,
        comes_back: bool = False,
    ) -> None:
        self.campaign = campaign
        self._say = say
        self._lease = lease
        self._watch = watch
        self._launcher = LeasedLauncher(make_launcher(campaign), lease)
        self.dispatcher = Dispatcher(campaign, self._launcher, say)
        self.call_log = CallLog(campaign.paths.calls, campaign.paths.text)
        self.activity = "starting"
        self._waits_for_disk = False
        self._finished_at = 0.0  # monotonic clock; 0: the campaign was not seen finished yet
        self._filled: dict[int, tuple[SlotTry, ...]] = {}
        self._paused = ""  # the words of a request, empty where there is none
        self._was_paused: bool | None = None  # None: the journal was not asked yet
        self.on_change: Callable[[], None] = lambda: None
        self.model = ModelAccess(
            campaign,
            self.call_log,
            say=say,
            pump=self._pump,
            require=lease.require,
            require_going=self.require_going,
            comes_back=comes_back,
        )
        require_domain(campaign.config)
        preflight(campaign)
        data.prepare(campaign.config.data, campaign.paths.data)
        campaign.journal.require_writer = lease.require

    # ---- the loop

    def run(self) -> None:
        """Tick until the campaign is finished; leaves no model server behind when it returns or raises."""
        try:
            while not (tick := self._tick_or_wait()).finished:
                if tick.waiting:
                    self._pause(tick.waiting)
        except DriverStopped:
            raise  # whoever asked for it decides what becomes of the server
        except BaseException:
            self._stop_model()
            raise
        self._stop_model()

    def _tick_or_wait(self) -> Tick:
        """A tick; on a cluster, where nobody looks on, a full or read-only disk is waited for."""
        try:
            tick = self.tick()
        except (StoreError, SlurmError, OSError) as error:
            reason = unwritable_reason(error)
            if reason is None or self.campaign.config.slurm.launcher != "cluster":
                raise
            if not self._waits_for_disk:
                self._say(f"paused: {reason}; it goes on by itself once the campaign folder can be written")
            self._waits_for_disk = True
            return Tick(finished=False, waiting="waiting for room on the disk")
        self._waits_for_disk = False
        return tick

    def _stop_model(self) -> None:
        if self._lease.is_held():  # whoever has taken over has taken the server as well
            self.model.stop()

    def run_while_due(self) -> Tick:
        """Tick until there is nothing to do but wait; a model server that was needed stays up for the next call."""
        while not (tick := self.tick()).finished:
            if tick.waiting:
                return tick
        self.model.stop()
        return tick

    def require_going(self) -> None:
        """Return while this driver may go on.

        Raises:
            DriverStopped: it was asked to end.
            LeaseLostError: another driver has taken over.
        """
        self._watch.require_going()
        self._lease.require()

    def tick(self) -> Tick:
        try:
            return self._tick()
        except ReplyPendingError as pending:
            return Tick(finished=False, waiting=str(pending))
        except CampaignPausedError as paused:
            self.model.tend()
            return Tick(finished=False, waiting=str(paused))

    def _tick(self) -> Tick:
        self.require_going()
        number = self.campaign.generations_closed()
        for closed in range(number):
            compact(self.campaign.generation(closed))
        is_clear = number == 0 or self.dispatcher.clear(number - 1)
        if self.campaign.is_finished():
            write_campaign_report(self.campaign, self.call_log)
            return Tick(finished=True) if is_clear or self._is_late() else Tick(finished=False, waiting=LEAVING)
        if number == 0:
            self.model.begin()  # it loads while the baselines are checked and trained
        self._note_pause()
        if self._is_unfilled(number):
            return self._propose(number)
        if not self._advance(number):
            if number == 0 and self.campaign.config.campaign.generations and self._is_unfilled(1):
                return self._propose(1)  # its parents are the reference: nothing of generation 0 is waited for
            self.model.tend()
            return Tick(finished=False, waiting=self._paused or f"generation {number} trains")
        if self._repeat(number):
            return Tick(finished=False)
        waiting = self.model.waiting() if number and self.model.is_asked else ""
        if not waiting:
            self._close(number)
        return Tick(finished=False, waiting=waiting)

    def _is_late(self) -> bool:
        """Whether the elements of a finished campaign have had their time to leave the queue."""
        self._finished_at = self._finished_at or time.monotonic()
        if time.monotonic() - self._finished_at < LEAVING_S:
            return False
        self._say("elements of this campaign are still in the queue; nothing depends on them, scancel ends them")
        return True

    # ---- the steps

    def _note_pause(self) -> None:
        """Look whether a researcher has paused or resumed the campaign; a change is said and kept in the journal."""
        if self._was_paused is None:
            seen = [entry.kind for entry in read(self.campaign.paths.journal).entries if entry.kind in _PAUSES]
            self._was_paused = seen[-1:] == ["paused"]
        self._paused = paused_words(self.campaign)
        if bool(self._paused) == self._was_paused:
            return
        self._was_paused = bool(self._paused)
        self.campaign.journal.append("paused" if self._paused else "resumed", {})
        self._say(self._paused or "resumed by hand")

    def _client(self) -> ModelClient:
        """The model for proposals; a pause takes effect between two calls."""
        if paused := paused_words(self.campaign):
            raise CampaignPausedError(paused)
        return self.model.client()

    def _propose(self, number: int) -> Tick:
        """Fill the open slots; where their model server is still in the queue, say so and come back."""
        if self._paused:
            raise CampaignPausedError(self._paused)
        if number:
            fixed_steering(self.campaign, number, self.reference())
        asks = any(plan.asks_model for plan, _ in self._open_slots(number))
        waiting = self.model.waiting() if asks else ""
        if waiting:
            return Tick(finished=False, waiting=waiting)
        self._now(f"generation {number}: proposing and checking")
        place_prompts(self.campaign, number)
        proposer = Proposer(
            self.campaign,
            steering=read_steering(self.campaign.generation(number)),
            launcher=self._launcher,
            client=self._client,
            calls=self.call_log,
            pump=self._pump,
            say=self._say,
        )
        proposer.fill(number, self.campaign.contents(), self._reference_or_none())
        return Tick(finished=False)

    def _advance(self, number: int) -> bool:
        candidates = admitted(self._tries(number))
        reference = self.reference()
        try:
            return self.dispatcher.advance(
                number,
                candidates,
                target_parameters=reference.parameter_count,
                step_s=lambda: self._reference_step_s(reference),
                may_begin=not self._paused,
            )
        except UnavailableError as error:
            self._say(f"gen {number}: {error}; asking again later")
            return False

    def _repeat(self, number: int) -> bool:
        """Once all have trained, name those that train again; True where the next tick has to look at the units."""
        if not self.campaign.config.selection.repeat_seeds or self.campaign.generation(number).repeats.exists():
            return False
        evaluations = self._merged(number)
        if evaluations is not None:
            repeats = name_repeats(self.campaign, number, evaluations, reference_id=self.reference().id)
            many = f"{len(repeats.candidates)} to be trained again with {len(repeats.seeds)} hidden seeds each"
            self._say(f"gen {number}: {many if repeats.candidates else 'none would become a parent, none is repeated'}")
        return True

    def _merged(self, number: int) -> tuple[Evaluation, ...] | None:
        """What all shards of the generation hold; None where some were refused and have to be made again."""
        report = merge_generation(self.campaign, number, self._say)
        if report.quarantined:
            return None  # the next tick submits those units again
        if report.missing:
            raise CampaignError(
                f"generation {number}: its shards lack {', '.join(report.missing[:3])}; "
                f"arch-search fsck {self.campaign.paths.root} says more"
            )
        return report.evaluations

    def _close(self, number: int) -> None:
        self._now(f"generation {number}: merging and analysing")
        evaluations = self._merged(number)
        if evaluations is None:
            return
        admitter = Admitter(self.campaign, self._launcher, self.require_going)
        grow(self.campaign, number, evaluations, reference=self.reference(), admitter=admitter, say=self._say)
        place_prompts(self.campaign, number)
        client = self.model.client if self.model.is_asked else None
        close_generation(
            self.campaign, number, evaluations, client=client, reference_id=self.reference().id, say=self._say
        )
        write_campaign_report(self.campaign, self.call_log)

    def _pump(self) -> None:
        """Keep trainings going while the driver waits for the model or for checks."""
        self.require_going()
        number = self.campaign.generations_closed()
        if not self._is_unfilled(number):
            self._advance(number)
        self.on_change()

    def _pause(self, waiting: str) -> None:
        self._now(waiting)
        self._watch.sleep(self.campaign.config.slurm.poll_s)

    def _now(self, activity: str) -> None:
        self.activity = activity
        self.on_change()

    def _open_slots(self, number: int) -> OpenSlots:
        steering = read_steering(self.campaign.generation(number))
        return open_slots(number, self._tries(number), self.campaign.config, steering)

    def _is_unfilled(self, number: int) -> bool:
        """Whether slots want a try, or are still to be named, as by a program by hand."""
        return (number > 0 and not self._is_opened(number)) or bool(self._open_slots(number))

    def _is_opened(self, number: int) -> bool:
        paths = self.campaign.generation(number)
        return paths.steering.exists() or bool(self._tries(number))

    def _tries(self, number: int) -> tuple[SlotTry, ...]:
        """The tries of a generation; once its slots are filled they never change, so that they are read once."""
        known = self._filled.get(number)
        if known is not None:
            return known
        tries = read_tries(self.campaign.generation(number))
        if not open_slots(number, tries, self.campaign.config, read_steering(self.campaign.generation(number))):
            recent = {one: kept for one, kept in self._filled.items() if one == number - 1}
            self._filled = {**recent, number: tries}
        return tries

    # ---- the reference

    def reference(self) -> Candidate:
        """The admitted reference; a campaign without it cannot go on."""
        found = self._reference_or_none()
        if found is None:
            reasons = [
                f"{verdict.check}: {verdict.reason}"
                for one in read_tries(self.campaign.generation(0))
                if one.proposal.slot == 0
                for verdict in one.verdicts
                if verdict.refuses
            ]
            raise CampaignError(f"the reference was refused ({'; '.join(reasons)}); loosen admission.* or the stage")
        return found

    def _reference_or_none(self) -> Candidate | None:
        found = admitted(one for one in read_tries(self.campaign.generation(0)) if one.proposal.slot == 0)
        return found[0] if found else None

    def _reference_step_s(self, reference: Candidate) -> float | None:
        """Median CPU-seconds per step of the reference's finished trainings; None before there are any."""
        mine = [one for one in self.campaign.contents().evaluations if one.task.candidate_id == reference.id]
        speeds = [speed for one in mine if (speed := one.score("step_s")) is not None]
        return statistics.median(speeds) if speeds else None


class LeasedLauncher:
    """A launcher that starts, submits and cancels only while the lease is held."""

    def __init__(self, launcher: Launcher, lease: Lease) -> None:
        self._launcher = launcher
        self._lease = lease

    def submit(self, order: Order) -> Submission:
        self._lease.require()
        return self._launcher.submit(order)

    def find(self, comment: str, *, folder: Path) -> Submission | None:
        return self._launcher.find(comment, folder=folder)

    def states(self, submission: Submission, units: Sequence[WorkUnit], probe: Probe) -> dict[str, UnitState]:
        self._lease.require()
        return self._launcher.states(submission, units, probe)

    def notes(self, submission: Submission) -> dict[str, str]:
        return self._launcher.notes(submission)

    def finish(self, submission: Submission) -> bool:
        self._lease.require()
        return self._launcher.finish(submission)

    def cancel(self, submission: Submission) -> None:
        self._lease.require()
        self._launcher.cancel(submission)

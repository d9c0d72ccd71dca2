"""The loop. `tick` does what is due once and returns; `run` is `tick` until the campaign is finished."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from arch_search.agents.call_log import CallLog
from arch_search.campaign import Campaign
from arch_search.closing import close_generation, merge_generation
from arch_search.dispatch import Dispatcher
from arch_search.errors import CampaignError
from arch_search.generation import admitted, open_slots, read_tries
from arch_search.launching import make_launcher
from arch_search.model_access import ModelAccess
from arch_search.proposing import Proposer, require_baselines
from arch_search.reporting import write_campaign_report
from arch_search.training import data
from cognition_db.records import Candidate
from slurm.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class Tick:
    """What one tick did: `waiting` names what runs elsewhere and is worth looking at again later."""

    finished: bool
    waiting: str = ""


class Driver:
    """One campaign being driven. Everything it knows is in files; a new Driver goes on where a killed one was."""

    def __init__(self, campaign: Campaign, say: Callable[[str], None]) -> None:
        self.campaign = campaign
        self._say = say
        self._launcher = make_launcher(campaign)
        self.dispatcher = Dispatcher(campaign, self._launcher, say)
        self.call_log = CallLog(campaign.paths.calls, campaign.paths.text)
        self.activity = "starting"
        self.on_change: Callable[[], None] = lambda: None
        self.model = ModelAccess(campaign, self.call_log, say=say, pump=self._pump)
        require_baselines(campaign.config)
        data.prepare(campaign.config.data, campaign.paths.data)

    # ---- the loop

    def run(self) -> None:
        """Tick until the campaign is finished; leaves no model server behind when it returns or raises."""
        try:
            while not (tick := self.tick()).finished:
                if tick.waiting:
                    self._pause()
        finally:
            self.model.stop()

    def tick(self) -> Tick:
        number = self.campaign.generations_closed()
        if self.campaign.is_finished():
            write_campaign_report(self.campaign, self.call_log)
            return Tick(finished=True)
        if number == 0:
            self.model.begin()  # it loads while the baselines are checked and trained
        if self._open(number):
            self._propose(number)
            return Tick(finished=False)
        if not self._advance(number):
            if number == 0 and self._open(1):
                self._propose(1)  # its parents are the reference: nothing of generation 0 is waited for
                return Tick(finished=False)
            return Tick(finished=False, waiting=f"generation {number} trains")
        self._close(number)
        return Tick(finished=False)

    # ---- the steps

    def _propose(self, number: int) -> None:
        self._now(f"generation {number}: proposing and checking")
        proposer = Proposer(
            self.campaign, launcher=self._launcher, client=self.model.client, pump=self._pump, say=self._say
        )
        proposer.fill(number, self.campaign.contents(), self._reference_or_none())

    def _advance(self, number: int) -> bool:
        candidates = admitted(read_tries(self.campaign.generation(number)))
        reference = self.reference()
        try:
            return self.dispatcher.advance(
                number,
                candidates,
                target_parameters=reference.parameter_count,
                step_s=lambda: self._reference_step_s(reference),
            )
        except UnavailableError as error:
            self._say(f"gen {number}: {error}; asking again later")
            return False

    def _close(self, number: int) -> None:
        self._now(f"generation {number}: merging and analysing")
        report = merge_generation(self.campaign, number, self._say)
        if report.quarantined:
            return  # the next tick submits those units again
        if report.missing:
            raise CampaignError(
                f"generation {number}: its shards lack {', '.join(report.missing[:3])}; "
                f"arch-search fsck {self.campaign.paths.root} says more"
            )
        client = self.model.client if self.model.is_asked else None
        close_generation(
            self.campaign, number, report.evaluations, client=client, reference_id=self.reference().id, say=self._say
        )
        write_campaign_report(self.campaign, self.call_log)

    def _pump(self) -> None:
        """Keep trainings going while the driver waits for the model or for checks."""
        number = self.campaign.generations_closed()
        if not self._open(number):
            self._advance(number)
        self.on_change()

    def _pause(self) -> None:
        self._now(f"generation {self.campaign.generations_closed()}: training")
        time.sleep(self.campaign.config.slurm.poll_s)

    def _now(self, activity: str) -> None:
        self.activity = activity
        self.on_change()

    def _open(self, number: int) -> bool:
        return bool(open_slots(number, read_tries(self.campaign.generation(number)), self.campaign.config))

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

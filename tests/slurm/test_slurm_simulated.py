"""ClusterLauncher.states against a simulated Slurm: what holds whatever Slurm does, and that each rule is needed."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import slurm.advice
import slurm.client
import slurm.files
import slurm.ledger
import slurm.site
import slurm.states
import slurm.watcher
import slurm.waves
from slurm import ClusterLauncher, Resources, Submission, UnitState, WorkUnit
from slurm.client import SlurmClient
from slurm.files import Desk
from tests.slurm.simulated_slurm import FAULTS, HELD, Element, SimulatedSlurm

Plant = Callable[[pytest.MonkeyPatch], None]
POLL_S = 60.0
SANE_POLLS = 40  # of these an attempt takes a few, and a unit may need an attempt more
UNITS = tuple(f"u{index}" for index in range(4))
RESOURCES = Resources(cpus_per_task=1, memory_gb=1, timeout_min=5)
SITE = slurm.site.SiteLimits(
    cluster="sim", version="23.11", max_array_size=1001, accounting=True, min_job_age_s=300
)  # fmt: skip
OVER = ("COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "CANCELLED")


class Campaign:
    """A driver that watches its units and submits again what ended, while everything happens to Slurm."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.slurm = SimulatedSlurm()
        patch.setattr(slurm.client, "run_client", self.slurm.ask)
        patch.setattr(slurm.site, "read_limits", lambda: SITE)
        self.rounds = 0
        self.submissions: dict[str, Submission] = {}
        self.states = dict.fromkeys(UNITS, UnitState.WAITING)
        self.start_driver()
        self.submit(UNITS)

    def start_driver(self) -> None:
        """As after a kill, and as each tick does."""
        self.launcher = ClusterLauncher(
            RESOURCES, poll_s=POLL_S, clock=lambda: self.slurm.now, ledger=self.folder / "ledger"
        )

    def look_at_status(self) -> None:
        SlurmClient(poll_s=POLL_S, clock=lambda: self.slurm.now, folder=self.folder / "ledger").queue()

    def submit(self, units: tuple[str, ...]) -> None:
        self.rounds += 1
        name, comment = "asx-sim", f"round {self.rounds}"
        array = self.slurm.submit(f"{name}-{Desk(self.folder, comment).key}-0", comment, units)
        submission = Submission(
            kind="cluster", name=name, comment=comment, folder=str(self.folder), submitted_unix=self.slurm.now,
            units=units, arrays=(dataclasses.replace(array, submitted_unix=self.slurm.now),),
        )  # fmt: skip
        self.submissions.update(dict.fromkeys(units, submission))

    def poll(self, wait_s: float) -> None:
        self.slurm.advance(wait_s)
        for comment in sorted({one.comment for one in self.submissions.values()}):
            members = [unit for unit, one in self.submissions.items() if one.comment == comment]
            units = [WorkUnit(name=unit, index=UNITS.index(unit)) for unit in members]
            self.states |= self.launcher.states(self.submissions[members[0]], units, self.slurm.evidence)
        self.check()
        if ended := tuple(unit for unit in UNITS if self.states[unit] is UnitState.ENDED):
            self.submit(ended)

    def check(self) -> None:
        for unit, state in self.states.items():
            if state is UnitState.DONE:
                assert self.slurm.evidence(unit).done, f"{unit} is DONE without a result"
            if state is UnitState.ENDED:
                assert not self.slurm.is_live(unit), f"{unit} is ENDED while an attempt lives: a second one would start"
        for program in ("squeue", "sacct"):
            times = [unix for name, unix in self.slurm.calls if name == program]
            assert all(later - earlier >= POLL_S for earlier, later in pairwise(times)), f"{program} called too often"

    def meet(self, step: Step) -> None:
        """Let one thing happen, then poll a few times."""
        if step.event in ON_CAMPAIGN:
            ON_CAMPAIGN[step.event](self)
        for element in [one for one in self.slurm.elements() if one.unit == UNITS[step.index]][-1:]:
            if step.event in ON_ELEMENT:
                ON_ELEMENT[step.event](self.slurm, element)
        for _ in range(step.polls):
            self.poll(step.wait_s)

    def become_sane(self) -> None:
        """From here on nothing goes wrong: every unit must come to its result."""
        self.slurm.faults.clear()
        for _ in range(SANE_POLLS):
            self.slurm.end_strays(with_result=False)
            for one in [each for each in self.slurm.elements() if each.unit in UNITS]:
                if one.is_held:
                    self.slurm.hold(one, one.reason)
                elif one.word == "SUSPENDED":
                    self.slurm.preempt(one, "SUSPEND")
                elif one.word in ("RUNNING", "COMPLETING"):
                    self.slurm.end(one, "COMPLETED")
                else:
                    self.slurm.start(one)
            self.poll(POLL_S)
            if set(self.states.values()) == {UnitState.DONE}:
                return
        raise AssertionError(f"after {SANE_POLLS} sane polls: {self.states}")


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One event, at one unit where it is about one, and the polls after it."""

    event: str
    index: int
    polls: int
    wait_s: float


def run(slurm_: SimulatedSlurm, element: Element) -> None:
    slurm_.start(element)
    slurm_.start(element)


def other_user(campaign: Campaign) -> None:
    """Somebody's array, which may get a job id that a Slurm without memory has given before; it never ends."""
    array = campaign.slurm.submit("other", "other", [f"x{index}" for index in range(len(UNITS))])
    for element in campaign.slurm.arrays[array.job_id].elements.values():
        run(campaign.slurm, element)


ON_ELEMENT: dict[str, Callable[[SimulatedSlurm, Element], None]] = {
    "starts": SimulatedSlurm.start,
    "runs": run,
    "is suspended or resumed": lambda slurm_, one: slurm_.preempt(one, "SUSPEND"),
    "is preempted and requeued": lambda slurm_, one: slurm_.preempt(one, "REQUEUE"),
    "is preempted for good": lambda slurm_, one: slurm_.preempt(one, "CANCEL"),
    "loses its node": lambda slurm_, one: slurm_.lose_node(one, requeue=False),
    "loses its node and is requeued": lambda slurm_, one: slurm_.lose_node(one, requeue=True),
    **{f"ends as {word}": lambda slurm_, one, word=word: slurm_.end(one, word) for word in OVER},
    **{f"is held as {why}": lambda slurm_, one, why=why: slurm_.hold(one, why) for why in HELD},
}
ON_CAMPAIGN: dict[str, Callable[[Campaign], None]] = {
    "nothing": lambda campaign: None,
    "the driver starts anew": Campaign.start_driver,
    "somebody looks at status": Campaign.look_at_status,
    "strays end": lambda campaign: campaign.slurm.end_strays(with_result=False),
    "strays end with a result": lambda campaign: campaign.slurm.end_strays(with_result=True),
    "slurmctld loses its state": lambda campaign: campaign.slurm.lose_state(),
    "somebody else submits": other_user,
    **{
        f"answers are {fault}": lambda campaign, fault=fault: campaign.slurm.faults.extend([fault] * 3)
        for fault in FAULTS
    },
}
STEPS = st.lists(
    st.builds(
        Step,
        event=st.sampled_from([*ON_CAMPAIGN, *ON_ELEMENT, "runs", "runs", "runs", "is suspended or resumed"]),
        index=st.integers(0, len(UNITS) - 1),
        polls=st.integers(0, 5),
        wait_s=st.sampled_from([7.0, 45.0, 60.0, 100.0]),
    ),
    min_size=5,
    max_size=30,
)


def live_through(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory(prefix="asx-sim-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm.files.os, "fsync", lambda descriptor: None)  # no power is cut here
        campaign = Campaign(Path(folder), patch)
        for step in steps:
            campaign.meet(step)
        campaign.become_sane()


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_a_campaign_holds_its_promises_whatever_slurm_does(steps: list[Step]) -> None:
    live_through(steps)


def is_over(word: str) -> Plant:
    return lambda patch: patch.setitem(slurm.advice.PHASES, word, slurm.states.Phase.OVER)


def judges(change: Callable[[Any, dict[str, Any]], UnitState | None]) -> Plant:
    """A judge that says what `change` makes of the phase and the other facts, or what the real one says."""

    def mutant(evidence: Any, phase: Any, **facts: Any) -> UnitState:
        return change(phase, facts) or slurm.states.judge(evidence, phase, **facts)

    return lambda patch: patch.setattr(slurm.watcher, "judge", mutant)


def without_grace(phase: Any, facts: dict[str, Any]) -> None:
    facts["grace_s"] = 0.0


def trust_all(text: str) -> slurm.states.Answer:
    return dataclasses.replace(slurm.states.parse_squeue(text), whole=True)


BUGS: dict[str, tuple[Plant, str]] = {
    "over counts as done": (
        judges(lambda phase, _: UnitState.DONE if phase is slurm.states.Phase.OVER else None), "DONE without a result"
    ),
    "suspended counts as over": (is_over("SUSPENDED"), "while an attempt lives"),
    "completing counts as over, though a preempted job goes on": (is_over("COMPLETING"), "while an attempt lives"),
    "special exit counts as over": (is_over("SPECIAL_EXIT"), "while an attempt lives"),
    "configuring counts as over": (is_over("CONFIGURING"), "while an attempt lives"),
    "heartbeats are not looked at": (
        lambda patch: patch.setattr(slurm.watcher, "is_alive", lambda *_, **__: False), "while an attempt lives"
    ),
    "a broken answer counts as whole": (
        lambda patch: patch.setattr(slurm.client, "parse_squeue", trust_all), "while an attempt lives"
    ),
    "there is no grace period": (judges(without_grace), "while an attempt lives"),
    "a job id alone makes a job ours": (
        lambda patch: patch.setattr(slurm.waves.Waves, "owns", lambda *_: True), "sane polls"
    ),
    "what slurm has forgotten stays unknown": (
        judges(lambda phase, _: UnitState.UNKNOWN if phase is None else None), "sane polls"
    ),
    "an old heartbeat is a sign of life": (
        lambda patch: patch.setattr(slurm.watcher, "is_alive", lambda one, **_: one.heartbeat_unix is not None),
        "sane polls",
    ),
    "each tick asks anew": (
        lambda patch: patch.setattr(slurm.client, "Ledger", lambda folder: slurm.ledger.Ledger(None)), "too often"
    ),
    "every look is a question": (
        lambda patch: patch.setattr(SlurmClient, "_is_early", lambda *_, **__: False), "too often"
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_wrong_rule_breaks_a_promise(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, promise = BUGS[bug]
    plant(monkeypatch)

    # no shrinking: that it fails is enough, the smallest example is of no use here
    @settings(max_examples=1000, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(steps=STEPS)
    def live(steps: list[Step]) -> None:
        live_through(steps)

    with pytest.raises(AssertionError, match=promise):
        live()

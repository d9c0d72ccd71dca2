"""Submission rounds: packs to work units, write-ahead, and what became of them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from arch_search import budget
from arch_search.analysis.costs import Budget
from arch_search.campaign import Campaign
from arch_search.domains import domain_named
from arch_search.errors import CampaignError
from arch_search.generation import packs_of, read_repeats, rounds_of, shards_of
from arch_search.launching import worker_command, worker_environment
from arch_search.paths import GenerationPaths, UnitPaths
from arch_search.sighting import Sighting, array_lines, leave_sighting
from arch_search.walltime import estimate_min
from arch_search.worker.ledger import has_progressed
from arch_search.worker.manifest import Manifest
from arch_search.worker.manifest import write as write_manifest
from cognition_db.experience.errors import NoSpaceError, StoreError
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.experience.shard import write_shard
from cognition_db.records import Candidate, Evaluation, Pack, Repeats, canonical_json, sha256_text
from slurm.files import arrays_of, is_held
from slurm.launchers import Launcher
from slurm.units import Evidence, Order, Probe, Submission, UnitState, WorkUnit

ENDED = (UnitState.DONE, UnitState.ENDED)
ROOM_MB = 20  # a unit's checkpoints and shard need less
_MOST_NAMED = 5
_DONE, _NOTHING = Evidence(done=True), Evidence(done=False)


def order_of(campaign: Campaign, number: int, round_number: int, units: tuple[WorkUnit, ...]) -> Order:
    """How a round is handed to the launcher; nothing of it needs to exist."""
    paths = campaign.generation(number)
    # the commands of a round differ in their last word
    *words, _ = worker_command(campaign, paths.manifest(round_number), 0)
    return Order(
        units=units,
        command=lambda index: [*words, str(index)],
        folder=paths.units,
        name=f"asx-{campaign.config.campaign.name}-g{number}",
        comment=f"asx-{campaign.uuid}-g{number:04d}-r{round_number:03d}",
        environment=worker_environment(campaign.config.stage.threads),
        timeout_min=wall_time_min(campaign, round_number),
    )


def wall_time_min(campaign: Campaign, round_number: int) -> int | None:
    """Minutes to ask for where slurm.estimate_time says so and enough was measured, else None."""
    return estimate_min(campaign, round_number=round_number) if campaign.config.slurm.estimate_time else None


class Dispatcher:
    """Trains the admitted candidates of one generation: `advance` until it says that no unit is left."""

    def __init__(self, campaign: Campaign, launcher: Launcher, say: Callable[[str], None]) -> None:
        self._campaign = campaign
        self._launcher = launcher
        self._say = say
        self._states: dict[str, UnitState] = {}
        self._said: set[str] = set()
        self._cleared: set[int] = set()
        self._packs_of: tuple[tuple[int, tuple[Candidate, ...], Repeats, int], tuple[Pack, ...]] | None = None
        self._units_of: dict[tuple[int, int], tuple[WorkUnit, ...]] = {}
        self._expenses = budget.Expenses(campaign)
        self._timeout_min = campaign.config.slurm.timeout_min
        self.sighting: Sighting | None = None  # what the last `advance` saw of the arrays

    @property
    def states(self) -> dict[str, UnitState]:
        """State of every unit of the current round, as of the last `advance`."""
        return dict(self._states)

    def budget(self) -> Budget:
        """What the campaign has used by now."""
        return self._expenses.budget()

    def advance(
        self,
        number: int,
        candidates: Sequence[Candidate],
        *,
        target_parameters: int,
        step_s: Callable[[], float | None],
        may_begin: bool = True,
    ) -> bool:
        """Submit what is due and look after what runs; True when every unit of the generation has its shard.

        Without `may_begin` no round is begun, and one that was goes to its end. `step_s` is asked when a round is
        written: the reference's median CPU-seconds per step.
        """
        paths = self._campaign.generation(number)
        missing = self._without_shard(number, candidates, attempt=1)
        rounds = rounds_of(paths)
        if not missing:
            self._states = {}
            self.clear(number)
            return True
        if not rounds and not may_begin:
            return False
        if not rounds:
            self._require_budget(missing)
            self._write_round(number, 1, candidates, target_parameters, step_s)
            rounds = (1,)
        current = rounds[-1]
        submission = self._submitted(number, current)
        units = self._units(number, current)
        self._states = self._launcher.states(submission, units, probe_of(self._campaign.generation(number)))
        self._say_notes(number, self._launcher.notes(submission))
        spent = self._expenses.budget()
        self._leave_sighting(number, current, submission, spent)
        self._stop_over(spent, submission, paths.submission(current))
        if not all(state in ENDED for state in self._states.values()):
            return False
        missing = self._without_shard(number, candidates, attempt=current)
        if not missing:
            return True
        names = {pack.unit for pack in missing}
        tried = [one for one in rounds if any(unit.name in names for unit in self._units(number, one))]
        # rounds that brought a unit forward are none of its failures; the worker ends a task that gets nowhere
        units_left = [paths.unit(pack.unit) for pack in missing]
        fruitless = [one for one in tried if not any(has_progressed(unit, one) for unit in units_left)]
        attempts = sum(not _is_cancelled(paths.submission(one)) for one in fruitless)
        if attempts >= self._campaign.config.campaign.attempts_per_task:
            self._give_up(number, missing)
            return True
        if not may_begin:
            return False
        self._require_room()
        self._require_budget(missing)
        if tried:
            lost = _some(sorted(names))
            self._say(f"gen {number}: {len(missing)} units ended without a shard ({lost}); running them again")
        self._write_round(number, current + 1, candidates, target_parameters, step_s)
        return False

    def clear(self, number: int) -> bool:
        """Every unit of the generation has its shard: whether nothing of it is in a queue; what waits there is removed.

        To be called again until it is True: what still runs may be put back into the queue.
        """
        if number in self._cleared:
            return True
        paths = self._campaign.generation(number)
        records = [read_json(paths.submission(one)) for one in rounds_of(paths) if paths.submission(one).exists()]
        made = [Submission.from_json(one["submission"]) for one in records if one["state"] == "submitted"]
        left = [one for one in made if not self._launcher.finish(one)]
        if not left:
            self._cleared.add(number)
        return not left

    def _require_room(self) -> None:
        """A full disk is no failure of a candidate: stop before attempts are used up on it."""
        free_mb = shutil.disk_usage(self._campaign.paths.root).free / 1e6
        if free_mb < ROOM_MB:
            raise NoSpaceError(
                f"{self._campaign.paths.root}: {free_mb:.0f} MB free on its disk, at least {ROOM_MB} are needed; "
                "make room and run the same command again"
            )

    def _require_budget(self, packs: Sequence[Pack]) -> None:
        self._expenses.require(units=len(packs), tasks=sum(len(pack.tasks) for pack in packs))

    def _leave_sighting(self, number: int, round_number: int, submission: Submission, spent: Budget) -> None:
        """What `status` shows; a full disk costs the picture, not the campaign."""
        seen = Sighting(
            unix=time.time(),
            generation=number,
            round=round_number,
            lines=array_lines(
                submission,
                arrays_of(submission),
                self._states,
                self._launcher.notes(submission),
                timeout_min=self._timeout_min,
            ),
            budget=spent,
        )
        with suppress(StoreError):
            self.sighting = leave_sighting(self._campaign.paths.sighting, seen, before=self.sighting)

    def _stop_over(self, spent: Budget, submission: Submission, record: Path) -> None:
        """campaign.max_gpu_hours is a hard stop: what runs is cancelled, and goes on from its checkpoints some day."""
        reason = budget.stop_reason(spent)
        if reason is not None:
            self._launcher.cancel(submission)
            write_atomic(record, canonical_json(read_json(record) | {"cancelled": True}).encode())
            raise CampaignError(f"{reason}; what ran was cancelled and keeps its checkpoints")

    def _say_notes(self, number: int, notes: Mapping[str, str]) -> None:
        """Each reason once, however many units it holds."""
        held: dict[str, list[str]] = {}
        for unit, note in notes.items():
            if note not in self._said:
                held.setdefault(note, []).append(unit)
        self._said.update(held)
        for note, units in held.items():
            self._say(f"gen {number}: {units[0]}{f' and {len(units) - 1} more' if len(units) > 1 else ''}: {note}")

    def _without_shard(self, number: int, candidates: Sequence[Candidate], *, attempt: int) -> list[Pack]:
        shards = shards_of(self._campaign.generation(number).shards)
        return [pack for pack in self._packs(number, tuple(candidates), attempt) if pack.unit not in shards]

    def _packs(self, number: int, candidates: tuple[Candidate, ...], attempt: int) -> tuple[Pack, ...]:
        """All packs of a generation, made once for the same candidates: each look at a large one asks for them."""
        repeats = read_repeats(self._campaign.generation(number))
        asked = (number, candidates, repeats, attempt)
        if self._packs_of is None or self._packs_of[0] != asked:
            packs = packs_of(number, candidates, self._campaign.config, repeats=repeats, attempt=attempt)
            self._packs_of = (asked, packs)
        return self._packs_of[1]

    def _write_round(
        self,
        number: int,
        round_number: int,
        candidates: Sequence[Candidate],
        target: int,
        step_s: Callable[[], float | None],
    ) -> None:
        paths, config = self._campaign.generation(number), self._campaign.config
        for candidate in candidates:
            if not paths.program(candidate.id).exists():
                write_atomic(paths.program(candidate.id), candidate.program.encode())
        manifest = Manifest(
            campaign_uuid=self._campaign.uuid,
            generation=number,
            round=round_number,
            config_sha256=self._campaign.config_sha256,
            stage=config.stage,
            contract=domain_named(config.domain.name).contract,
            jail=config.jail,
            data_dir=str(self._campaign.paths.data),
            target_parameters=target,
            reference_step_s=step_s(),
            packs=tuple(self._without_shard(number, candidates, attempt=round_number)),
            classes={candidate.id: candidate.class_name for candidate in candidates},
            versions=self._campaign.versions,
            secret_sha256=self._campaign.secret_sha256,
            stage_in=config.slurm.stage_in,
            warn_s=min(config.slurm.warn_s, 30 * config.slurm.timeout_min),
        )
        write_manifest(paths.manifest(round_number), manifest)
        self._cleared.discard(number)

    def _submitted(self, number: int, round_number: int) -> Submission:
        """The recorded submission of a round; submits it, write-ahead, when there is none."""
        file = self._campaign.generation(number).submission(round_number)
        known = read_json(file) if file.exists() else None
        if known and known["state"] == "submitted":
            self._timeout_min = budget.asked_in(known, self._campaign.config).timeout_min
            return Submission.from_json(known["submission"])
        order = order_of(self._campaign, number, round_number, self._units(number, round_number))
        found = self._launcher.find(order.comment, folder=order.folder) if known else None
        if not known:
            write_atomic(file, canonical_json({"state": "intent", "comment": order.comment}).encode())
        asked = budget.asked_of(self._campaign.config, timeout_min=order.timeout_min)
        self._timeout_min = asked.timeout_min
        submission = found or self._launcher.submit(order)
        record: dict[str, Any] = {"state": "submitted", "comment": order.comment, "submission": submission.to_json()}
        record["asked"] = budget.asked_json(asked)
        write_atomic(file, canonical_json(record).encode())
        count = len(order.units)
        self._campaign.journal.append("submitted", {"generation": number, "round": round_number, "units": count})
        self._say(f"gen {number}: {count} units submitted ({submission.kind})")
        return submission

    def _units(self, number: int, round_number: int) -> tuple[WorkUnit, ...]:
        """The units of a round; its manifest never changes, so that it is read once."""
        known = self._units_of.get((number, round_number))
        if known is None:
            packs = read_json(self._campaign.generation(number).manifest(round_number))["packs"]
            known = tuple(WorkUnit(name=pack["unit"], index=index) for index, pack in enumerate(packs))
            self._units_of = {(number, round_number): known}
        return known

    def _give_up(self, number: int, packs: Sequence[Pack]) -> None:
        """Every candidate ends in one terminal state: a unit that never answers is recorded as crashed."""
        paths = self._campaign.generation(number)
        for pack in packs:
            cause = f"no shard after {pack.attempt} attempts of {pack.unit}; its log is {paths.unit(pack.unit).log}"
            lost = tuple(self._lost(task_index, pack, cause, paths.program) for task_index in range(len(pack.tasks)))
            shard = paths.shard(pack.unit, pack.attempt)
            write_shard(shard, lost, generation=number, secret=self._campaign.secret)
            self._say(f"gen {number}: {pack.unit} lost: {cause}")

    def _lost(self, index: int, pack: Pack, cause: str, program_of: Callable[[str], Path]) -> Evaluation:
        task = pack.tasks[index]
        return Evaluation(
            task=task,
            unit=pack.unit,
            fencing_token=f"{self._campaign.uuid}/{pack.unit}/{pack.attempt}/driver",
            ending="crashed",
            cause=cause,
            scores=(),
            curve_steps=(),
            curve_loss=(),
            tokens_seen=0,
            parameter_count=0,
            wall_s=0.0,
            cpu_s=0.0,
            peak_memory_mb=0.0,
            resumed_from_step=0,
            started_unix=time.time(),
            host="",
            versions=self._campaign.versions,
            config_sha256=self._campaign.config_sha256,
            program_sha256=sha256_text(program_of(task.candidate_id).read_text()),
        )


def probe_of(paths: GenerationPaths) -> Probe:
    """What the files of units say: one listing of each folder, and a new one when a unit is asked for again."""
    asked: set[str] = set()
    shards, begun = _listing(paths)

    def probe(unit: str) -> Evidence:
        nonlocal shards, begun
        if unit in asked:
            asked.clear()
            shards, begun = _listing(paths)
        asked.add(unit)
        if unit in shards:
            return _DONE
        return _evidence(paths.unit(unit)) if unit in begun else _NOTHING

    return probe


def _listing(paths: GenerationPaths) -> tuple[Collection[str], set[str]]:
    """Units with a shard, and units that have begun."""
    return shards_of(paths.shards), set(os.listdir(paths.units)) if paths.units.exists() else set()


def _is_cancelled(submission: Path) -> bool:
    """Whether somebody ended the round on purpose: that is no attempt of its units."""
    return submission.exists() and bool(read_json(submission).get("cancelled"))


def _evidence(paths: UnitPaths) -> Evidence:
    try:
        heartbeat_unix = paths.heartbeat.stat().st_mtime
    except FileNotFoundError:
        heartbeat_unix = None
    return Evidence(done=False, running=is_held(paths.lock), heartbeat_unix=heartbeat_unix)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED])
    return shown if len(names) <= _MOST_NAMED else f"{shown} and {len(names) - _MOST_NAMED} more"

"""Submission rounds: packs to work units, write-ahead, and what became of them."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arch_search.campaign import Campaign
from arch_search.errors import CampaignError
from arch_search.generation import packs_of, rounds_of, shard_of
from arch_search.launching import worker_command, worker_environment
from arch_search.worker.manifest import Manifest
from arch_search.worker.manifest import write as write_manifest
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.experience.shard import write_shard
from cognition_db.records import Candidate, Evaluation, Pack, canonical_json, sha256_text
from slurm.launchers import Launcher
from slurm.units import Evidence, Submission, UnitState, WorkUnit

ENDED = (UnitState.DONE, UnitState.ENDED)
ROOM_MB = 20  # a unit's checkpoints and shard need less


class Dispatcher:
    """Trains the admitted candidates of one generation: `advance` until it says that no unit is left."""

    def __init__(self, campaign: Campaign, launcher: Launcher, say: Callable[[str], None]) -> None:
        self._campaign = campaign
        self._launcher = launcher
        self._say = say
        self._states: dict[str, UnitState] = {}
        self._said: set[str] = set()

    @property
    def states(self) -> dict[str, UnitState]:
        """State of every unit of the current round, as of the last `advance`."""
        return dict(self._states)

    def advance(
        self,
        number: int,
        candidates: Sequence[Candidate],
        *,
        target_parameters: int,
        step_s: Callable[[], float | None],
    ) -> bool:
        """Submit what is due and look after what runs; True when every unit of the generation has its shard.

        `step_s` is asked when a round is written: the reference's median CPU-seconds per step.
        """
        paths = self._campaign.generation(number)
        missing = self._without_shard(number, candidates, attempt=1)
        if not missing:
            self._states = {}
            return True
        rounds = rounds_of(paths)
        if not rounds:
            self._write_round(number, 1, candidates, target_parameters, step_s)
            rounds = (1,)
        current = rounds[-1]
        submission = self._submitted(number, current)
        units = self._units(number, current)
        self._states = self._launcher.states(submission, units, lambda unit: self._evidence(number, unit))
        self._say_notes(number, self._launcher.notes(submission))
        if not all(state in ENDED for state in self._states.values()):
            return False
        missing = self._without_shard(number, candidates, attempt=current)
        if not missing:
            return True
        if current >= self._campaign.config.campaign.attempts_per_task:
            self._give_up(number, missing)
            return True
        self._require_room()
        lost = ", ".join(pack.unit for pack in missing)
        self._say(f"gen {number}: {len(missing)} units ended without a shard ({lost}); running them again")
        self._write_round(number, current + 1, candidates, target_parameters, step_s)
        return False

    def _require_room(self) -> None:
        """A full disk is no failure of a candidate: stop before attempts are used up on it."""
        free_mb = shutil.disk_usage(self._campaign.paths.root).free / 1e6
        if free_mb < ROOM_MB:
            raise CampaignError(
                f"{self._campaign.paths.root}: {free_mb:.0f} MB free on its disk, at least {ROOM_MB} are needed; "
                "make room and run the same command again"
            )

    def _say_notes(self, number: int, notes: Mapping[str, str]) -> None:
        """Each reason once, however many units it holds."""
        for note in dict.fromkeys(notes.values()):
            if note not in self._said:
                self._said.add(note)
                held = [unit for unit, one in notes.items() if one == note]
                self._say(f"gen {number}: {held[0]}{f' and {len(held) - 1} more' if len(held) > 1 else ''}: {note}")

    def _without_shard(self, number: int, candidates: Sequence[Candidate], *, attempt: int) -> list[Pack]:
        paths = self._campaign.generation(number)
        packs = packs_of(number, candidates, self._campaign.config, attempt=attempt)
        return [pack for pack in packs if shard_of(paths, pack.unit) is None]

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
            jail=config.jail,
            data_dir=str(self._campaign.paths.data),
            target_parameters=target,
            reference_step_s=step_s(),
            packs=tuple(self._without_shard(number, candidates, attempt=round_number)),
            classes={candidate.id: candidate.class_name for candidate in candidates},
            versions=self._campaign.versions,
        )
        write_manifest(paths.manifest(round_number), manifest)

    def _submitted(self, number: int, round_number: int) -> Submission:
        """The recorded submission of a round; submits it, write-ahead, when there is none."""
        paths = self._campaign.generation(number)
        file = paths.submission(round_number)
        comment = f"asx-{self._campaign.uuid}-g{number:04d}-r{round_number:03d}"
        known = read_json(file) if file.exists() else None
        if known and known["state"] == "submitted":
            return Submission.from_json(known["submission"])
        found = self._launcher.find(comment, folder=paths.units) if known else None
        if not known:
            write_atomic(file, canonical_json({"state": "intent", "comment": comment}).encode())
        units = self._units(number, round_number)
        submission = found or self._launcher.submit(
            units,
            command=lambda index: worker_command(paths.manifest(round_number), index),
            folder=paths.units,
            name=f"asx-{self._campaign.config.campaign.name}-g{number}",
            comment=comment,
            environment=worker_environment(self._campaign.config.stage.threads),
        )
        record: dict[str, Any] = {"state": "submitted", "comment": comment, "submission": submission.to_json()}
        write_atomic(file, canonical_json(record).encode())
        self._campaign.journal.append("submitted", {"generation": number, "round": round_number, "units": len(units)})
        self._say(f"gen {number}: {len(units)} units submitted ({submission.kind})")
        return submission

    def _units(self, number: int, round_number: int) -> tuple[WorkUnit, ...]:
        packs = self._packs_in(number, round_number)
        return tuple(WorkUnit(name=pack["unit"], index=index) for index, pack in enumerate(packs))

    def _packs_in(self, number: int, round_number: int) -> list[dict[str, Any]]:
        packs: list[dict[str, Any]] = read_json(self._campaign.generation(number).manifest(round_number))["packs"]
        return packs

    def _evidence(self, number: int, unit: str) -> Evidence:
        paths = self._campaign.generation(number)
        heartbeat = paths.unit(unit).heartbeat
        return Evidence(
            done=shard_of(paths, unit) is not None,
            running=_is_held(paths.unit(unit).lock),
            heartbeat_unix=heartbeat.stat().st_mtime if heartbeat.exists() else None,
        )

    def _give_up(self, number: int, packs: Sequence[Pack]) -> None:
        """Every candidate ends in one terminal state: a unit that never answers is recorded as crashed."""
        paths = self._campaign.generation(number)
        for pack in packs:
            cause = f"no shard after {pack.attempt} attempts of {pack.unit}; its log is {paths.unit(pack.unit).log}"
            lost = tuple(self._lost(task_index, pack, cause, paths.program) for task_index in range(len(pack.tasks)))
            write_shard(paths.shard(pack.unit, pack.attempt), lost, generation=number)
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


def _is_held(lock: Path) -> bool:
    """Whether a living supervisor on this host holds the unit; other hosts are seen by their heartbeat."""
    try:
        handle = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)

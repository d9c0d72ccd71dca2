"""The state of one round, computed from which files exist; nothing here writes."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from pydantic import ValidationError

from arch_search.config import Config
from arch_search.paths import GenerationPaths
from arch_search.steering import Steering
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json
from cognition_db.records import (
    WRITTEN_ARMS,
    WRITTEN_RUNGS,
    Arm,
    Candidate,
    Pack,
    Record,
    Repeats,
    Rung,
    SlotTry,
    Task,
    from_json,
)

# Placebos must not share the reference's seeds: an equal program on equal seeds differs by exactly nothing.
PLACEBO_SEED_BASE = 1000


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """What one slot of a generation asks for. `rung` is None where the ladder draws one for each try."""

    slot: int
    arm: Arm
    rung: Rung | None

    @property
    def asks_model(self) -> bool:
        return self.rung is None or self.rung in WRITTEN_RUNGS

    @property
    def drawn_rung(self) -> Rung:
        """The rung of one try at this slot."""
        assert self.rung is not None, "a rung of the ladder is drawn before anything else of a try"
        return self.rung

    def rungs(self, config: Config) -> tuple[Rung, ...]:
        """Every rung on which it may ask for a program."""
        return (self.rung,) if self.rung else rungs_up_to(config.roles.highest_rung)

    def is_open(self, config: Config, closed: Container[str]) -> bool:
        """Whether one of them is left where some are `closed`."""
        return any(rung not in closed for rung in self.rungs(config))


def rungs_up_to(highest: str) -> tuple[Rung, ...]:
    """The rungs of the ladder, the lowest first."""
    names: Sequence[str] = WRITTEN_RUNGS
    return WRITTEN_RUNGS[: names.index(highest) + 1]


def slot_plans(config: Config) -> tuple[SlotPlan, ...]:
    """The slots of every generation after 0, in their fixed order; none where generation 0 is the only one."""
    if not config.campaign.generations:
        return ()
    slots = config.campaign.slots
    kinds: list[tuple[Arm, Rung | None, int]] = [
        ("evolve", "grammar_edit", slots.grammar_edit),
        ("evolve", "grammar_program", slots.grammar_program),
        ("evolve", "toolbox_program", slots.toolbox_program),
        ("evolve", "method_splice", slots.method_splice),
        ("evolve", "whole_module", slots.whole_module),
        ("evolve", None, slots.ladder),
        ("evolve", "crossover", slots.crossover),
        ("evolve", "simplify", slots.simplify),
        ("mutate", "mutation", slots.mutation),
        ("placebo", "copy", slots.placebo),
    ]
    flat = [(arm, rung) for arm, rung, count in kinds for _ in range(count)]
    plans = [SlotPlan(slot, arm, rung) for slot, (arm, rung) in enumerate(flat)]
    # the control is asked for the same forms as the arm it is compared with
    forms = cycle(plan.rung for plan in plans if plan.asks_model)
    controls = [SlotPlan(len(plans) + index, "best_of_n", next(forms)) for index in range(slots.best_of_n)]
    return (*plans, *controls)


def searched_rungs(config: Config) -> set[Rung]:
    """Every rung on which a campaign may look for programs; copies are none."""
    plans = (plan for plan in slot_plans(config) if plan.arm != "placebo")
    return {rung for plan in plans for rung in plan.rungs(config)}


def baseline_plans(config: Config) -> tuple[SlotPlan, ...]:
    """The slots of generation 0: the reference first, then every other baseline."""
    return tuple(SlotPlan(slot, "baseline", "copy") for slot in range(1 + len(config.campaign.baselines)))


def plans_of(number: int, config: Config, steering: Steering) -> tuple[SlotPlan, ...]:
    """The slots of a generation that are filled: without those of closed rungs, with one for each program by hand."""
    if number == 0:
        return baseline_plans(config)
    kept = [plan for plan in slot_plans(config) if plan.is_open(config, steering.closed_rungs)]
    return (*kept, *(SlotPlan(program.slot, "hand", "hand") for program in steering.programs))


def read_steering(paths: GenerationPaths) -> Steering:
    """What holds for the generation; nothing before it is opened."""
    return read_record(Steering, paths.steering) if paths.steering.exists() else Steering()


def read_tries(paths: GenerationPaths) -> tuple[SlotTry, ...]:
    """All tries of a generation on disk, by slot and attempt."""
    if not paths.slots.exists():
        return ()
    files = sorted(file for file in paths.slots.iterdir() if file.suffix == ".json")
    return tuple(read_record(SlotTry, file) for file in files)


def read_record(kind: type[Record], file: Path) -> Record:
    """The record in a file; StoreError in one line where it is damaged."""
    try:
        return from_json(kind, read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{file}: no {kind.__name__} ({where}: {first['msg']}); restore it from a copy") from None


OpenSlots = tuple[tuple[SlotPlan, int], ...]


def open_slots(number: int, tries: Sequence[SlotTry], config: Config, steering: Steering) -> OpenSlots:
    """Slots that still want a try, each with the number of its next attempt."""
    wanting = []
    for plan in plans_of(number, config, steering):
        limit = 1 if plan.arm in ("baseline", "hand") else config.campaign.tries_per_slot
        mine = [one for one in tries if one.proposal.slot == plan.slot]
        if not any(one.candidate for one in mine) and len(mine) < limit:
            wanting.append((plan, len(mine)))
    return tuple(wanting)


def next_round(wanting: OpenSlots) -> OpenSlots:
    """The open slots that are tried next: what a killed driver left of a round, before the round after it begins."""
    lowest = min((attempt for _, attempt in wanting), default=0)
    return tuple((plan, attempt) for plan, attempt in wanting if attempt == lowest)


def admitted(tries: Iterable[SlotTry]) -> tuple[Candidate, ...]:
    return tuple(one.candidate for one in tries if one.candidate)


def is_of_search(arm: Arm) -> bool:
    """Whether the search itself made the program."""
    return arm in (*WRITTEN_ARMS, "mutate")


def is_reference(candidate: Candidate) -> bool:
    """Whether it is the program that all others are measured against: the first of generation 0."""
    return candidate.arm == "baseline" and candidate.slot == 0


def seeds_for(candidate: Candidate, config: Config) -> range:
    """Seeds the candidate trains with; the reference has the most."""
    campaign = config.campaign
    if candidate.arm == "baseline":
        return range(campaign.reference_seeds if is_reference(candidate) else campaign.baseline_seeds)
    if candidate.arm == "placebo":
        first = PLACEBO_SEED_BASE + 100 * candidate.generation + 10 * candidate.slot
        return range(first, first + campaign.seeds_per_candidate)
    return range(campaign.seeds_per_candidate)


def read_repeats(paths: GenerationPaths) -> Repeats:
    """Who is trained again in this generation; nobody before that was decided."""
    return read_record(Repeats, paths.repeats) if paths.repeats.exists() else Repeats()


def packs_of(
    number: int, candidates: Sequence[Candidate], config: Config, *, repeats: Repeats, attempt: int
) -> tuple[Pack, ...]:
    """All packs of a generation; unit names and their tasks are the same in every attempt.

    The repeats have units of their own behind those of the others, which are there before anything is repeated.
    """

    def task(candidate: str, seed: int) -> Task:
        return Task(candidate_id=candidate, stage=config.stage.name, seed=seed, attempt=attempt)

    size = config.slurm.tasks_per_unit
    tasks = [task(candidate.id, seed) for candidate in candidates for seed in seeds_for(candidate, config)]
    again = [task(candidate, seed) for candidate in repeats.candidates for seed in repeats.seeds]
    groups = [part[start : start + size] for part in (tasks, again) for start in range(0, len(part), size)]
    return tuple(
        Pack(unit=f"g{number:04d}-u{index:04d}", attempt=attempt, tasks=tuple(group))
        for index, group in enumerate(groups)
    )


def recorded_packs(number: int, paths: GenerationPaths, config: Config) -> tuple[Pack, ...]:
    """The packs of a generation as its files say, of the first attempt."""
    return packs_of(number, admitted(read_tries(paths)), config, repeats=read_repeats(paths), attempt=1)


def rounds_of(paths: GenerationPaths) -> tuple[int, ...]:
    """Numbers of the submission rounds whose manifest was written."""
    return tuple(sorted(int(file.stem.removeprefix("manifest-")) for file in paths.root.glob("manifest-*.json")))


def shards_of(folder: Path) -> dict[str, Path]:
    """The newest shard of every unit that has one, from one listing of a folder of shards."""
    found: dict[str, tuple[int, Path]] = {}
    for file in folder.glob("*.h5"):
        unit, _, attempt = file.stem.rpartition("-a")
        if attempt.isdigit() and int(attempt) > found.get(unit, (0, file))[0]:
            found[unit] = (int(attempt), file)
    return {unit: file for unit, (_, file) in found.items()}

"""A search space whose truth is known: policies are compared there, since no cluster could pay for hundreds of repeats.

A program is one option for each of seven hooks; option 0 is the reference's. Its true value is the sum of the effects
of its options and of some pairs of them. The model of the landscape knows a little: it draws options with a weight that
grows with their own effect. Mutations know nothing. What is measured is the truth plus noise of each training.

Kinds of landscapes: `additive` (effects only), `plateaus` (two thirds of all options change nothing), `rugged` (pairs
count as much as effects), `deceptive` (the best pair is worth most, and each half of it alone does harm).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator

from arch_search.analysis.statistics import standings
from arch_search.config import Selection
from arch_search.proposals.registry import HOOKS
from arch_search.selection.lineages import ancestry
from arch_search.selection.policies import choose_parents, next_parents
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import HIDDEN_SEEDS_FROM, PARENT_ARMS, Arm, Candidate, Evaluation, Score, Task, candidate_id

Kind = Literal["additive", "plateaus", "rugged", "deceptive"]
Genome = tuple[int, ...]
NAMES = tuple(hook.name for hook in HOOKS)
OPTIONS = 8
EFFECT = 0.02  # standard deviation of an option's effect, as a fraction of accuracy
REFERENCE_VALUE = 0.5
_KNOWLEDGE = 0.75  # weight of an option: exp(knowledge * effect / EFFECT)
_REWRITTEN = 0.35  # share of the hooks that a whole program writes anew
_BROKEN = 0.1  # programs that do not finish their training
_REFERENCE_SEEDS = 4


@dataclass(frozen=True)
class Landscape:
    """`effects` [hook, option]; `pairs` (hook, option, hook, option) -> what both together add."""

    effects: np.ndarray
    pairs: dict[tuple[int, int, int, int], float]

    @classmethod
    def draw(cls, kind: Kind, rng: Generator) -> Landscape:
        effects = EFFECT * rng.standard_normal((len(NAMES), OPTIONS))
        if kind == "plateaus":
            effects *= rng.random(effects.shape) < 1 / 3
        effects[:, 0] = 0.0
        pairs: dict[tuple[int, int, int, int], float] = {}
        if kind == "rugged":
            for first in range(len(NAMES)):
                for second in range(first):
                    for one, other in rng.integers(1, OPTIONS, (6, 2)):
                        pairs[first, int(one), second, int(other)] = 2 * EFFECT * float(rng.standard_normal())
        if kind == "deceptive":
            first, second = (int(hook) for hook in rng.choice(len(NAMES), 2, replace=False))
            one, other = (int(option) for option in rng.integers(1, OPTIONS, 2))
            effects[first, one] = effects[second, other] = -1.5 * EFFECT
            pairs[first, one, second, other] = 9 * EFFECT
        return cls(effects=effects, pairs=pairs)

    def value(self, genome: Genome) -> float:
        own = sum(float(self.effects[hook, option]) for hook, option in enumerate(genome))
        together = sum(
            gain for (a, one, b, other), gain in self.pairs.items() if genome[a] == one and genome[b] == other
        )
        return REFERENCE_VALUE + own + together

    def option(self, hook: int, rng: Generator, *, knows: bool) -> int:
        weights = np.exp(_KNOWLEDGE * self.effects[hook] / EFFECT) if knows else np.ones(OPTIONS)
        return int(rng.choice(OPTIONS, p=weights / weights.sum()))

    def child(self, parent: Genome, rng: Generator, *, whole: bool, knows: bool) -> Genome:
        """The parent with one hook changed, or with several where a whole program is written."""
        hooks = np.flatnonzero(rng.random(len(NAMES)) < _REWRITTEN) if whole else [int(rng.integers(len(NAMES)))]
        genome = list(parent)
        for hook in hooks:
            genome[int(hook)] = self.option(int(hook), rng, knows=knows)
        return tuple(genome)


def crossed(one: Genome, other: Genome, rng: Generator) -> Genome | None:
    """One with some of the hooks of the other, but not all in which they differ; None where these are fewer than two.

    As proposals.crossover does with the hooks of two programs.
    """
    differ = [hook for hook in range(len(one)) if one[hook] != other[hook]]
    if len(differ) < 2:
        return None
    taken = int(rng.integers(1, 2 ** len(differ) - 1))
    chosen = {hook for bit, hook in enumerate(differ) if taken >> bit & 1}
    return tuple(other[hook] if hook in chosen else one[hook] for hook in range(len(one)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Searcher:
    """How a campaign on a landscape is run. `arm` best_of_n never looks at what was measured, mutate knows nothing.

    So many slots of each generation as `crossings` says cross their parent with that of another slot, of another
    lineage where there is one.
    """

    selection: Selection
    arm: Arm
    slots: int = 8
    crossings: int = 0
    seeds: int = 2
    trainings: int = 240


def search(landscape: Landscape, searcher: Searcher, *, noise_sd: float, rng: Generator) -> float:
    """True improvement over the reference of the program that the campaign ranks first; 0 where it is the reference."""
    campaign = _Campaign(landscape, searcher, noise_sd, rng)
    while campaign.trainings < searcher.trainings:
        campaign.generation()
    rows = standings(campaign.contents, reference_id=campaign.reference.id, metric="recall_accuracy", confidence=0.95)
    first = next((row for row in rows if row.arm in (*PARENT_ARMS, "best_of_n") and row.low > -np.inf), None)
    if first is None or not first.low > 0:
        return 0.0
    return landscape.value(campaign.genomes[first.candidate_id]) - REFERENCE_VALUE


class _Campaign:
    def __init__(self, landscape: Landscape, searcher: Searcher, noise_sd: float, rng: Generator) -> None:
        self._landscape, self._searcher, self._noise_sd, self._rng = landscape, searcher, noise_sd, rng
        self.genomes: dict[str, Genome] = {}
        self.trainings = 0
        self._number = 0
        self.contents = ArchiveContents()
        self.reference = self._candidate((0,) * len(NAMES), arm="baseline", slot=0, parent=None)
        self._hidden = [HIDDEN_SEEDS_FROM + index for index in range(searcher.selection.repeat_seeds)]
        self._add([self.reference], [*range(_REFERENCE_SEEDS), *self._hidden])

    def generation(self) -> None:
        self._number += 1
        searcher = self._searcher
        choices = choose_parents(
            self.contents, searcher.selection, reference_id=self.reference.id, rng=self._rng, slots=searcher.slots
        )
        made: dict[str, Candidate] = {}
        for slot, choice in enumerate(choices):
            parent = self.reference if searcher.arm == "best_of_n" else choice.parent
            whole = searcher.arm != "mutate" and slot % 3 == 2
            others = [one.parent for one in (*choices[slot + 1 :], *choices[:slot])]
            for _ in range(3):  # a repetition is refused before it costs a training
                genome = self._crossing(parent, others) if slot < searcher.crossings else None
                genome = genome or self._landscape.child(
                    self.genomes[parent.id], self._rng, whole=whole, knows=searcher.arm != "mutate"
                )
                child = self._candidate(genome, arm=searcher.arm, slot=slot, parent=parent)
                if child.id not in made and self.contents.candidate(child.id) is None:
                    made[child.id] = child
                    break
        self._add(list(made.values()), range(searcher.seeds))
        if self._hidden:
            again = next_parents(
                self.contents,
                searcher.selection,
                reference_id=self.reference.id,
                generation=self._number,
                slots=searcher.slots,
            )
            self._train(again, self._hidden)
        self.trainings = max(self.trainings, self._number)  # ends where nothing new is found any more

    def _crossing(self, parent: Candidate, others: Sequence[Candidate]) -> Genome | None:
        """A crossing with the first of the others that it takes; those of another lineage come first."""
        by_id = {candidate.id: candidate for candidate in self.contents.candidates}
        mine = ancestry(parent, by_id)
        if not mine:
            return None  # the reference is no parent of a crossing
        evolved = [(mine & line, one) for one in others if (line := ancestry(one, by_id))]
        genomes = (self.genomes[one.id] for _, one in sorted(evolved, key=lambda pair: bool(pair[0])))
        found = (crossed(self.genomes[parent.id], genome, self._rng) for genome in genomes)
        return next((genome for genome in found if genome), None)

    def _candidate(self, genome: Genome, *, arm: Arm, slot: int, parent: Candidate | None) -> Candidate:
        program = _program(genome)
        key = candidate_id(program)
        self.genomes[key] = genome
        return Candidate(
            id=key, program=program, class_name="DeltaNet", name=str(genome), arm=arm, rung="grammar_edit",
            generation=self._number, slot=slot, parents=(parent.id,) if parent else (), motivation="",
            parameter_count=1,
        )  # fmt: skip

    def _add(self, candidates: Sequence[Candidate], seeds: Sequence[int]) -> None:
        before = self.contents
        self.contents = ArchiveContents(
            candidates=(*before.candidates, *candidates), evaluations=before.evaluations, lessons=()
        )
        self._train(candidates, seeds)

    def _train(self, candidates: Sequence[Candidate], seeds: Sequence[int]) -> None:
        runs = [self._run(candidate, seed) for candidate in candidates for seed in seeds]
        self.trainings += len(runs)
        self.contents = ArchiveContents(
            candidates=self.contents.candidates, evaluations=(*self.contents.evaluations, *runs), lessons=()
        )

    def _run(self, candidate: Candidate, seed: int) -> Evaluation:
        genome = self.genomes[candidate.id]
        value = self._landscape.value(genome) + self._noise_sd * float(self._rng.standard_normal())
        # whether a program breaks is a property of its options, the same for every seed
        broken = any(genome) and np.random.default_rng([7, *genome]).random() < _BROKEN
        cost = 1.0 + 0.15 * sum(option % 3 == 2 for option in genome)
        return Evaluation(
            task=Task(candidate_id=candidate.id, stage="s", seed=seed, attempt=1), unit="u", fencing_token="t",
            ending="non_finite" if broken else "finished", cause="",
            scores=() if broken else (
                Score(name="recall_accuracy", value=value, count=1, unit="1"),
                Score(name="heldout_loss", value=4.0 - value, count=1, unit="1"),
                Score(name="step_s", value=cost, count=1, unit="s"),
            ),
            curve_steps=(), curve_loss=(), tokens_seen=0, parameter_count=1, wall_s=cost, cpu_s=cost,
            peak_memory_mb=0.0, resumed_from_step=0, started_unix=0.0, host="", versions={}, config_sha256="",
            program_sha256="",
        )  # fmt: skip


def _program(genome: Genome) -> str:
    options = zip(NAMES, genome, strict=True)
    hooks = [f"    def {name}(self, x):\n        return {option} * x\n" for name, option in options]
    return "class DeltaNet:\n" + "".join(hooks)

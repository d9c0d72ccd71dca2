"""All choices of a try that no language model makes: parent, method, insight; a function of the campaign's seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from arch_search.analysis.lessons import outcome_as_symptom
from arch_search.clean_text import one_line
from arch_search.config import Config
from arch_search.domains import Domain, domain_named
from arch_search.generation import OpenSlots, SlotPlan, rungs_up_to, slot_plans
from arch_search.proposals import rungs
from arch_search.proposals.assignment import Assignment, Draft
from arch_search.proposals.fingerprint import normal_form_or_empty
from arch_search.proposals.registry import BUILT_IN, Toolbox
from arch_search.protocols import ModelReply
from arch_search.selection import ladder, policies
from arch_search.selection.lineages import second_parent
from arch_search.selection.pool import ParentChoice
from arch_search.steered import excluded, has_place, pinned
from arch_search.steering import Steering
from cognition_db.experience.archive import ArchiveContents
from cognition_db.literature import load_insights, retrieve
from cognition_db.records import Candidate, Insight, Rung, SlotTry, Verdict, Writing

_LONGEST_REASON = 400  # characters: a reason may quote the reply
# of each insight, how near an embedding model finds it to what was observed
Nearness = Callable[[str, Sequence[Insight]], Mapping[str, float]]
_NEAR = 8  # insights near to what was observed, among which one is drawn: the nearest alone would come again and again


@dataclass(frozen=True, slots=True)
class Drawn:
    """One try before its program text came to be. `assignment` is there where a model is asked.

    `partner` is the second parent of a crossing, None where there is none to be had. `steering` says what a
    researcher's requests had to do with the try.
    """

    plan: SlotPlan
    attempt: int
    seed: int
    parent: Candidate | None
    assignment: Assignment | None
    partner: Candidate | None = None
    steering: tuple[str, ...] = ()

    @property
    def parents(self) -> tuple[str, ...]:
        """Ids of the programs that it is made from."""
        if self.plan.arm == "baseline":
            return ()
        return tuple(dict.fromkeys(one.id for one in (self.parent, self.partner) if one is not None))


@dataclass(frozen=True, slots=True)
class Written:
    """A drawn try after its program text came to be, or failed to (`refusal`)."""

    drawn: Drawn
    draft: Draft | None
    reply: ModelReply | None
    refusal: Verdict | None
    repairs: int = 0
    writing: Writing | None = None


def refusal(check: str, error: Exception) -> Verdict:
    """The verdict on a try that became no program."""
    return Verdict(check=check, outcome="failed", reason=one_line(str(error), _LONGEST_REASON), refuses=True)


def parent_choices(
    number: int, *, config: Config, contents: ArchiveContents, reference: Candidate | None, steering: Steering
) -> tuple[ParentChoice, ...]:
    """Parents for all tries of a generation, one for each slot in turn; none before anything was measured.

    `contents` are the generations before it.
    """
    if reference is None or not contents.evaluations:
        return ()
    return policies.choose_parents(
        contents,
        config.selection,
        reference_id=reference.id,
        rng=np.random.default_rng(np.random.SeedSequence([config.campaign.seed, number])),
        slots=len(slot_plans(config)),
        rounds=config.campaign.tries_per_slot,
        excluded=excluded(steering, contents.candidates, reference),
    )


def known_forms(contents: ArchiveContents, reference: Candidate) -> frozenset[str]:
    """Normal forms of the programs that were measured, and of the reference."""
    return frozenset(normal_form_or_empty(one.program) for one in (*contents.candidates, reference))


def with_rungs(
    number: int,
    wanting: OpenSlots,
    *,
    config: Config,
    contents: ArchiveContents,
    tries: Sequence[SlotTry],
    reference: Candidate | None,
    steering: Steering,
) -> OpenSlots:
    """The same tries of one round, those of the ladder with the rung that it draws.

    `tries` are those of this generation. Those of the round itself do not count, so that a kill changes nothing.
    """
    if all(plan.rung for plan, _ in wanting):
        return wanting
    assert reference is not None, "generation 0 is filled before any other"
    rates = ladder.tallies(
        contents,
        [one for one in tries if one.proposal.attempt < wanting[0][1]],
        rungs=[one for one in rungs_up_to(config.roles.highest_rung) if one not in steering.closed_rungs],
        selection=config.selection,
        reference_id=reference.id,
    )
    return tuple(
        (plan if plan.rung else replace(plan, rung=_ladder_rung(number, plan, attempt, config, rates)), attempt)
        for plan, attempt in wanting
    )


def _ladder_rung(number: int, plan: SlotPlan, attempt: int, config: Config, rates: Mapping[Rung, ladder.Tally]) -> Rung:
    """What the ladder draws for this slot; a control gets what the slot that it follows gets."""
    slots = [one.slot for one in slot_plans(config) if one.rung is None]  # controls come last
    index = slots.index(plan.slot) % config.campaign.slots.ladder
    entropy = np.random.SeedSequence([config.campaign.seed, number, index, attempt], spawn_key=(1,))
    return ladder.draw_rung(
        rates,
        config.campaign,
        generation=number,
        index=index,
        attempt=attempt,
        rng=np.random.default_rng(entropy),
    )


def draw(
    number: int,
    plan: SlotPlan,
    attempt: int,
    *,
    config: Config,
    contents: ArchiveContents,
    choices: Sequence[ParentChoice],
    reference: Candidate | None,
    steering: Steering,
    toolbox: Toolbox,
    nearness: Nearness | None = None,
) -> Drawn:
    """Draw try `attempt` at a slot of generation `number`; `choices` are those of `parent_choices`.

    `nearness` is asked for only where something was observed.
    """
    entropy = np.random.SeedSequence([config.campaign.seed, number, plan.slot, attempt])
    seed = int(entropy.generate_state(1)[0])
    if plan.arm in ("baseline", "placebo", "hand"):
        words = steering.words(plan.arm, plan.drawn_rung, slot=plan.slot, pin=None)
        return Drawn(plan, attempt, seed, None if plan.arm == "hand" else reference, None, steering=words)
    assert reference is not None, "generation 0 is filled before any other"
    first = attempt * len(slot_plans(config)) + plan.slot
    choice, pin = ParentChoice(parent=reference, references=()), None
    if plan.arm != "best_of_n":
        own = _own((*choices[first:], *choices[:first]), plan, steering, reference, toolbox) or choice
        candidates = (*contents.candidates, reference)
        choice, pin = pinned(own, plan, attempt, steering, candidates=candidates, reference=reference, toolbox=toolbox)
    words = steering.words(plan.arm, plan.drawn_rung, slot=plan.slot, pin=pin)
    if not plan.asks_model:
        following = (*choices[first + 1 :], *choices[: first + 1])
        partner = None
        if plan.rung == "crossover":
            known = known_forms(contents, reference)
            partner = second_parent(choice.parent, following, contents, known=known, toolbox=toolbox)
        return Drawn(plan, attempt, seed, choice.parent, None, partner, words)
    rng = np.random.default_rng(seed)
    # the control knows nothing of what was measured, nor of what grew from it
    usable = toolbox if plan.arm == "evolve" else BUILT_IN
    seen = _observed_of(choice.parent, contents, reference, config.selection.metric) if plan.arm == "evolve" else ""
    domain = domain_named(config.domain.name)
    useful = set(domain.insight_tags)
    insights = [insight for insight in load_insights() if useful & set(insight.tags)]
    assignment = _assignment(
        plan,
        choice,
        insights,
        nearness=nearness(seen, insights) if nearness and seen else None,
        observed=seen,
        steering=steering,
        domain=domain,
        toolbox=usable,
        rng=rng,
    )
    return Drawn(plan, attempt, seed, choice.parent, assignment, steering=words)


def _own(
    in_turn: Sequence[ParentChoice], plan: SlotPlan, steering: Steering, reference: Candidate, toolbox: Toolbox
) -> ParentChoice | None:
    """The first of these parents that the slot's rung can change."""
    banned = steering.banned_families
    return next((one for one in in_turn if has_place(plan.drawn_rung, one.parent, reference, banned, toolbox)), None)


def _assignment(
    plan: SlotPlan,
    choice: ParentChoice,
    insights: Sequence[Insight],
    *,
    nearness: Mapping[str, float] | None,
    observed: str,
    steering: Steering,
    domain: Domain,
    toolbox: Toolbox,
    rng: np.random.Generator,
) -> Assignment:
    """The place of the change and the idea: one by hand, where there is one for this slot, else an insight."""
    method, rung = "", plan.drawn_rung
    if rung in ("grammar_edit", "method_splice"):
        possible = rungs.methods_for(rung, choice.parent, toolbox)
        methods = [one for one in possible if one not in steering.banned_families]
        method = methods[int(rng.integers(len(methods)))]
    insight = _insight(insights, rungs.insight_tags(rung, method), observed, nearness, rng)
    idea = steering.idea_of(plan.slot)
    return Assignment(
        rung=rung,
        parent=choice.parent,
        method=method,
        insight=None if idea else insight,
        plan=idea.text if idea else "",
        references=choice.references,
        class_name=domain.contract.class_name,
        toolbox=toolbox,
    )


def _observed_of(parent: Candidate, contents: ArchiveContents, reference: Candidate, metric: str) -> str:
    """What was said of the parent once it was measured, else its computed outcome; empty where there is none."""
    lesson = next((one for one in contents.lessons if one.candidate_id == parent.id), None)
    if lesson is None:
        return ""
    trigger = lesson.analysis.trigger if lesson.analysis else ""
    said = f"{trigger} {lesson.text}".strip()
    return said or outcome_as_symptom(lesson, parent, reference, metric=metric)


def _insight(
    insights: Sequence[Insight],
    tags: Sequence[str],
    observed: str,
    nearness: Mapping[str, float] | None,
    rng: np.random.Generator,
) -> Insight:
    """One of the insights that fit the place of the change (any, where none does), near to what was observed."""
    fitting = [insight for insight in insights if set(tags) & set(insight.tags)] or list(insights)
    near = retrieve(observed, fitting, _NEAR, nearness) if observed else fitting
    return near[int(rng.integers(len(near)))]

"""Writing: how a model is asked for a program, by a plan or straight from an insight, and the record of it.

And how a program comes about where no model is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np

from arch_search.agents import planner, researcher
from arch_search.agents.call_log import Call
from arch_search.agents.packing import lines_by_rank
from arch_search.analysis.digest import Summary
from arch_search.analysis.lessons import WORDS, numbers_for_analyst
from arch_search.analysis.relatives import Measured, lineage_of
from arch_search.campaign import Campaign
from arch_search.drawing import Drawn, Written, known_forms, refusal
from arch_search.errors import ProposalError, ReplyError
from arch_search.proposals import crossover, mutation, rungs, simplify
from arch_search.proposals.assignment import Assignment, Draft, Section
from arch_search.proposals.difference import changed_definitions
from arch_search.proposals.registry import BY_HOOK, Toolbox
from arch_search.protocols import ModelClient
from arch_search.summarising import summary_before
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Candidate, SlotTry, Writing

_RECENT = 8  # programs made from a parent that its Planner is shown, the last first


def draft_without_model(
    drawn: Drawn,
    parent: Candidate,
    reference: Candidate,
    *,
    contents: ArchiveContents,
    banned: Container[str],
    toolbox: Toolbox,
) -> Draft:
    """The program of a rung that asks no model; raises ProposalError where it has nothing to do."""
    rng = np.random.default_rng(drawn.seed)
    if drawn.plan.rung == "mutation":
        return mutation.mutate(parent, rng, toolbox, banned=banned)
    if drawn.plan.rung == "simplify":
        return simplify.simplify(parent, reference, rng, toolbox)
    if drawn.partner is None:
        raise ProposalError(
            f"parent {parent.id} has nobody to be crossed with: no other program that was chosen as a parent is built "
            "on the toolbox, differs from it in two or more hooks and has a crossing with it that is new"
        )
    return crossover.cross(parent, drawn.partner, known_forms(contents, reference), rng, toolbox)


class Writer:
    """Asks for the programs of one generation; `contents` are the generations before it."""

    def __init__(
        self,
        campaign: Campaign,
        client: Callable[[], ModelClient],
        *,
        contents: ArchiveContents,
        reference: Candidate | None,
    ) -> None:
        self._campaign = campaign
        self._roles = campaign.config.roles
        self._client = client
        self._contents = contents
        self._candidates = {one.id: one for one in contents.candidates}
        # each looks through the files of the generations before, which change no more
        self._summary_before = cache(partial(summary_before, campaign))
        selection = campaign.config.selection
        self._measured = (
            Measured.of(contents, reference_id=reference.id, metric=selection.metric, confidence=selection.confidence)
            # the first generation is written while the reference is still training
            if self._roles.planner_enabled and reference is not None and reference.id in self._candidates
            else None
        )

    def write(self, number: int, drawn: Drawn, assignment: Assignment) -> Written:
        """The try with its program, or with the reason why there is none."""
        key = try_key(number, drawn.plan.slot, drawn.attempt)
        writing = unplanned(assignment)
        if drawn.plan.arm == "evolve":  # the control has no history
            summary = self._summary(number, assignment.parent)
            assignment = replace(assignment, learned=summary.brief if summary else "")
            if self._measured is not None and not assignment.plan:
                learned = summary.text if summary else ""
                assignment, writing = self._planned(assignment, writing, self._measured, learned, f"{key}/planner")
            drawn = replace(drawn, assignment=assignment)
        try:
            reply = researcher.write(
                self._client(),
                assignment,
                prompts=self._campaign.prompts,
                key=f"{key}/researcher",
                sampling=self._roles.researcher,
            )
        except ReplyError as error:
            return Written(drawn, None, None, refusal("reply", error), writing=writing)
        try:
            return Written(drawn, rungs.program_from_reply(assignment, reply.text), reply, None, writing=writing)
        except ProposalError as error:
            return Written(drawn, None, reply, refusal("program", error), writing=writing)

    def _summary(self, number: int, parent: Candidate) -> Summary | None:
        """Of the parent's lineage; of the whole campaign where the parent is the reference, or none was made of it."""
        lineage = "" if parent.arm == "baseline" else lineage_of(parent, self._candidates)
        own = self._summary_before(number, lineage) if lineage else None
        return own or self._summary_before(number, "")

    def _planned(
        self, assignment: Assignment, writing: Writing, measured: Measured, learned: str, key: str
    ) -> tuple[Assignment, Writing]:
        """The assignment with a plan; as it was where the Planner's reply is of no use."""
        try:
            plan = planner.make_plan(
                self._client(),
                planner_view(assignment, measured, self._contents, learned),
                prompts=self._campaign.prompts,
                key=key,
                sampling=self._roles.planner,
            )
        except ReplyError as error:
            return assignment, replace(writing, unusable=(f"planner: {refusal('plan', error).reason}",))
        said = Writing(idea=plan.idea, origin=plan.origin, sources=plan.sources, unfounded=plan.unfounded)
        return replace(assignment, plan=plan.text), said


def try_key(number: int, slot: int, attempt: int) -> str:
    """What the keys of all calls of one try begin with."""
    return f"g{number:04d}/s{slot:03d}/t{attempt}"


def unplanned(assignment: Assignment) -> Writing:
    """The record of a try that the Planner was not asked about: the idea is one by hand, or the drawn insight."""
    insight = assignment.insight
    if assignment.plan:
        return Writing(idea=assignment.plan, origin="hand")
    if insight is None:
        return Writing()
    return Writing(idea=insight.claim, origin="literature", sources=(insight.id,))


def with_calls(tried: SlotTry, calls: Iterable[Call]) -> SlotTry:
    """The try with what its calls cost, all roles and second attempts together; as it is where no model was asked."""
    proposal, listed = tried.proposal, list(calls)
    if proposal.writing is None:
        return tried
    writing = replace(
        proposal.writing,
        calls=tuple(call.key for call in listed),
        prompt_tokens=sum(call.prompt_tokens for call in listed),
        reply_tokens=sum(call.reply_tokens for call in listed),
        model_s=round(sum(call.seconds for call in listed), 3),
    )
    return replace(tried, proposal=replace(proposal, writing=writing))


def planner_view(assignment: Assignment, measured: Measured, contents: ArchiveContents, learned: str) -> planner.View:
    """What the Planner is shown of the parent, its measurements and its children; a function of the archive."""
    parent = assignment.parent
    reference = measured.candidates[measured.reference_id]
    children = [one for one in contents.candidates if parent.id in one.parents and one.id in measured.standings]
    recent = children[: -_RECENT - 1 : -1]
    insight = assignment.insight
    changed = changed_definitions(reference.program, parent.program)
    return planner.View(
        place=_place(assignment),
        insights=f"[{insight.id}] {insight.claim} {insight.how} It helps when: {insight.trigger}"
        if insight
        else "none",
        program=(Section(name="parent", text=changed, instead=parent.motivation),),
        numbers=lines_by_rank(f"[{parent.id}]\n{numbers_for_analyst(measured, parent)}", "numbers"),
        lesson=next((one.text for one in contents.lessons if one.candidate_id == parent.id), ""),
        learned=learned,
        tried=(*_children(recent, measured), *rungs.tried_sections(assignment)),
        ids={parent.id, *(one.id for one in recent), *([insight.id] if insight else [])},
    )


def _children(recent: Sequence[Candidate], measured: Measured) -> list[Section]:
    return [
        Section(
            name=f"child {one.id}",
            text=f"[{one.id}] {one.motivation}: {WORDS[measured.standings[one.id].verdict]}",
            priority=2 + place,
        )
        for place, one in enumerate(recent)
    ]


def _place(assignment: Assignment) -> str:
    if assignment.method in BY_HOOK:
        return f"{assignment.method}, {BY_HOOK[assignment.method].purpose}"
    return f"the method {assignment.method}" if assignment.method else "the whole program"

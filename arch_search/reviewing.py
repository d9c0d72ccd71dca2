"""Reviews: what the Novelty reviewer and the Code reviewer say of a program that every check has admitted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from arch_search.agents.reviewers import review_code, review_novelty
from arch_search.campaign import Campaign
from arch_search.proposals.assignment import Section
from arch_search.proposals.difference import changed_definitions
from arch_search.protocols import ModelClient
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Candidate, SlotTry, Verdict

_NEAREST = 4  # earlier programs that the Novelty reviewer is shown


class Reviewer:
    """Reviews the programs of one generation; `contents` are the generations before it."""

    def __init__(
        self,
        campaign: Campaign,
        client: Callable[[], ModelClient],
        *,
        contents: ArchiveContents,
        reference: Candidate | None,
    ) -> None:
        self._campaign = campaign
        self._client = client
        # the first generation is reviewed while the reference is still training
        self._earlier = {one.id: one for one in (*contents.candidates, *([reference] if reference else []))}

    def reviewed(self, tried: SlotTry) -> SlotTry:
        """The try with two more marks, where a model wrote an admitted program; any other try as it is."""
        candidate, writing = tried.candidate, tried.proposal.writing
        if candidate is None or writing is None or not tried.proposal.reply_sha256:
            return tried
        key = f"g{candidate.generation:04d}/{candidate.id}"
        prompts, sampling = self._campaign.prompts, self._campaign.config.roles.reviewer
        novelty = review_novelty(
            self._client(),
            change=candidate.motivation,
            nearest=nearest(candidate, list(self._earlier.values())),
            prompts=prompts,
            key=f"{key}/novelty_reviewer",
            sampling=sampling,
        )
        code = review_code(
            self._client(),
            idea=writing.idea,
            program=self._changed(candidate),
            prompts=prompts,
            key=f"{key}/code_reviewer",
            sampling=sampling,
        )
        return _marked(tried, candidate, (novelty, code))

    def _changed(self, candidate: Candidate) -> tuple[Section, ...]:
        parent = self._earlier.get(candidate.parents[0]) if candidate.parents else None
        text = changed_definitions(parent.program if parent else "", candidate.program)
        return (Section(name="program", text=text, instead=candidate.motivation),)


def nearest(candidate: Candidate, earlier: Sequence[Candidate]) -> tuple[Section, ...]:
    """What the earlier programs changed that behave most like this one, the nearest first; placebos say nothing."""
    comparable = [
        one
        for one in earlier
        if one.arm != "placebo" and one.motivation and len(one.fingerprint) == len(candidate.fingerprint)
    ]
    ranked = sorted(comparable, key=lambda one: (math.dist(one.fingerprint, candidate.fingerprint), one.id))
    return tuple(
        Section(name=f"earlier {one.id}", text=f"[{one.id}] {one.motivation}", priority=place)
        for place, one in enumerate(ranked[:_NEAREST])
    )


def _marked(tried: SlotTry, candidate: Candidate, marks: tuple[Verdict, ...]) -> SlotTry:
    marked = replace(candidate, verdicts=(*candidate.verdicts, *marks))
    return replace(tried, verdicts=(*tried.verdicts, *marks), candidate=marked)

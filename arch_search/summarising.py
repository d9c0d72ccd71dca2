"""Renewing the rolling summaries once per generation; one file per generation keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from arch_search.agents import summariser
from arch_search.agents.summariser import News
from arch_search.analysis.digest import Summaries, Summary, computed_summaries
from arch_search.analysis.lessons import WORDS
from arch_search.analysis.relatives import Measured
from arch_search.analysis.text import signed
from arch_search.campaign import Campaign
from arch_search.errors import ReplyError
from arch_search.generation import read_record
from arch_search.proposals.assignment import Section
from arch_search.protocols import ModelClient
from cognition_db.experience.files import write_atomic
from cognition_db.records import Lesson, canonical_json, to_json


def renew_summaries(
    campaign: Campaign, number: int, measured: Measured, lessons: Sequence[Lesson], *, client: ModelClient | None
) -> None:
    """Write what generation `number` left, `lessons` being its own; computed alone where no model is asked."""
    file = campaign.generation(number).summaries
    if file.exists():
        return
    summaries = computed_summaries(measured, number)
    if client is not None and campaign.config.roles.summariser_enabled:
        worder = _Worder(campaign, number, measured, lessons, client)
        with ThreadPoolExecutor(max_workers=campaign.config.llm.callers) as pool:
            whole = pool.submit(worder.worded, "", summaries.campaign)
            parts = {key: pool.submit(worder.worded, key, one) for key, one in summaries.lineages.items()}
            summaries = Summaries(campaign=whole.result(), lineages={key: part.result() for key, part in parts.items()})
    write_atomic(file, canonical_json(to_json(summaries)).encode())


def summary_before(campaign: Campaign, number: int, lineage: str) -> Summary | None:
    """The newest summary of a lineage, or of the campaign where `lineage` is empty, older than generation `number`."""
    for earlier in range(number - 1, 0, -1):
        file = campaign.generation(earlier).summaries
        if not file.exists():
            continue  # closed before there were summaries
        summaries = read_record(Summaries, file)
        found = summaries.lineages.get(lineage) if lineage else summaries.campaign
        if found is not None:
            return found
    return None


class _Worder:
    """Asks for the words of the summaries of one generation."""

    def __init__(
        self, campaign: Campaign, number: int, measured: Measured, lessons: Sequence[Lesson], client: ModelClient
    ) -> None:
        self._campaign = campaign
        self._number = number
        self._measured = measured
        self._lessons = lessons
        self._client = client

    def worded(self, lineage: str, summary: Summary) -> Summary:
        """The summary with words; without them where the reply is of no use."""
        before = summary_before(self._campaign, self._number, lineage)
        news = News(
            scope=f"the lineage of {self._measured.candidates[lineage].name}" if lineage else "the whole search",
            previous=before.words if before else "",
            computed=summary.computed,
            lessons=tuple(self._section(one) for one in self._lessons if self._belongs(one, lineage)),
        )
        try:
            words = summariser.summarise(
                self._client,
                news,
                prompts=self._campaign.prompts,
                key=f"g{self._number:04d}/{lineage or 'campaign'}/summariser",
                sampling=self._campaign.config.roles.summariser,
            )
        except ReplyError:
            return summary
        return replace(summary, words=words.text, reply_sha256=words.reply_sha256)

    def _belongs(self, lesson: Lesson, lineage: str) -> bool:
        one = self._measured.candidates[lesson.candidate_id]
        return lesson.candidate_id in self._measured.families and lineage in ("", self._measured.lineage(one))

    def _section(self, lesson: Lesson) -> Section:
        one = self._measured.candidates[lesson.candidate_id]
        outcome = f"{WORDS[lesson.outcome]} ({signed(lesson.difference)})"
        return Section(
            name=f"lesson {one.id}",
            text=f"{one.motivation}: {outcome}. {lesson.text}".strip(),
            instead=f"{one.name}: {outcome}.",
            priority=1 if lesson.outcome == "within_noise" else 0,
        )

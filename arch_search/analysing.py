"""What is said of a generation once it is measured: computed lessons and summaries, and a model's words beside."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from arch_search.agents import analyst, judge
from arch_search.agents.judge import Subject
from arch_search.analysis.lessons import computed_lesson, numbers_for_analyst
from arch_search.analysis.relatives import Measured
from arch_search.campaign import Campaign
from arch_search.drawing import refusal
from arch_search.errors import ReplyError
from arch_search.generation import read_record
from arch_search.judging import measure_judge, scale_of
from arch_search.protocols import ModelClient
from arch_search.summarising import renew_summaries
from cognition_db.experience.archive import ArchiveContents
from cognition_db.experience.files import write_atomic
from cognition_db.records import Analysis, Candidate, Lesson, canonical_json, to_json


def analyse(
    campaign: Campaign, number: int, contents: ArchiveContents, *, client: ModelClient | None, reference_id: str
) -> tuple[Lesson, ...]:
    """A lesson on each candidate of generation `number`; its summaries are renewed. No client: no words."""
    selection, roles = campaign.config.selection, campaign.config.roles
    measured = Measured.of(
        contents, reference_id=reference_id, metric=selection.metric, confidence=selection.confidence
    )
    mine = [candidate for candidate in contents.candidates if candidate.generation == number]
    with ThreadPoolExecutor(max_workers=campaign.config.llm.callers) as pool:
        judged = measure_judge(campaign, number, client, pool) if client and roles.judge_enabled else None
        lessons = tuple(pool.map(lambda one: _lesson(campaign, one, measured, client), mine))
        if judged:
            judged()
    renew_summaries(campaign, number, measured, lessons, client=client)
    return lessons


def _lesson(campaign: Campaign, candidate: Candidate, measured: Measured, client: ModelClient | None) -> Lesson:
    """The lesson with the Analyst's words and the Judge's recorded opinion; a file keeps it through a kill."""
    file = campaign.generation(candidate.generation).lesson(candidate.id)
    if file.exists():
        return read_record(Lesson, file)
    lesson = computed_lesson(measured, candidate)
    if client is not None and candidate.arm == "evolve":
        roles = campaign.config.roles
        key = f"g{candidate.generation:04d}/{candidate.id}"
        if roles.analyst_enabled:
            lesson = _with_words(lesson, candidate, measured, client, f"{key}/analyst", campaign)
        if roles.judge_enabled:
            lesson = _with_marks(lesson, candidate, client, f"{key}/judge", campaign)
    write_atomic(file, canonical_json(to_json(lesson)).encode())
    return lesson


def _with_words(
    lesson: Lesson, candidate: Candidate, measured: Measured, client: ModelClient, key: str, campaign: Campaign
) -> Lesson:
    try:
        words = analyst.lesson_text(
            client,
            motivation=candidate.motivation,
            changed=measured.changed_by(candidate),
            numbers=numbers_for_analyst(measured, candidate),
            outcome=lesson.outcome,
            prompts=campaign.prompts,
            key=key,
            sampling=campaign.config.roles.analyst,
        )
    except ReplyError as error:
        return _without(lesson, "analyst", error)  # the computed verdict stands without words
    analysis = replace(
        lesson.analysis or Analysis(),
        component=words.component,
        confidence=words.confidence,
        trigger=words.trigger,
    )
    return replace(lesson, text=words.text, reply_sha256=words.reply_sha256, analysis=analysis)


def _with_marks(lesson: Lesson, candidate: Candidate, client: ModelClient, key: str, campaign: Campaign) -> Lesson:
    try:
        opinion = judge.score(
            client,
            Subject(program=candidate.program, motivation=candidate.motivation),
            scale=scale_of(campaign),
            prompts=campaign.prompts,
            key=key,
            sampling=campaign.config.roles.judge,
        )
    except ReplyError as error:
        return _without(lesson, "judge", error)
    analysis = replace(
        lesson.analysis or Analysis(),
        effectiveness=opinion.effectiveness,
        novelty=opinion.novelty,
        complexity=opinion.complexity,
    )
    return replace(lesson, judge_score=opinion.score, analysis=analysis)


def _without(lesson: Lesson, role: str, error: ReplyError) -> Lesson:
    analysis = lesson.analysis or Analysis()
    reason = f"{role}: {refusal(role, error).reason}"
    return replace(lesson, analysis=replace(analysis, unusable=(*analysis.unusable, reason)))

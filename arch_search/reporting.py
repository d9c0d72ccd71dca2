"""From the files of a campaign to what a person reads: ranking, report, live view."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from arch_search.agents.call_log import CallLog
from arch_search.analysis.opinions import Opinions, analyst_counts
from arch_search.analysis.ranking import ranking_lines
from arch_search.analysis.report import write_report
from arch_search.analysis.statistics import Standing, standings
from arch_search.analysis.status import budget_values, standing_values
from arch_search.analysis.status_lines import budget_words
from arch_search.analysis.summary import ReportFacts, RoleCalls
from arch_search.budget import spent
from arch_search.campaign import Campaign
from arch_search.dispatch import Dispatcher
from arch_search.generation import admitted, is_reference, read_record, read_tries, recorded_packs
from arch_search.growing import growths_before
from arch_search.judging import judge_record
from arch_search.progress import acknowledged, best_in_words, read_results, seconds_left, trainings_done
from arch_search.selection.agreement import agreement_in, judge_weight
from arch_search.settings import config_to_json
from cognition_db.experience.archive import ArchiveContents
from cognition_db.experience.files import write_atomic
from cognition_db.records import Evaluation, canonical_json

# Below this many bytes of training text the loss of two architectures differs by less than the seeds do.
_TOKENS_TO_RANK_BY_LOSS = 400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One look at a running campaign, in words; the best program is that of the generations closed so far."""

    activity: str
    generation: int
    generations: int
    units: str
    model: str
    best: str
    budget: str
    elapsed_s: float
    left: str


def everything_so_far(campaign: Campaign) -> ArchiveContents:
    """The archive and, beside it, what the open generation has recorded already."""
    contents = campaign.contents()
    number = campaign.generations_closed()
    if number > campaign.config.campaign.generations:
        return contents
    tries = read_tries(campaign.generation(number))
    if number == 0:
        tries += read_tries(campaign.generation(1))
    candidates = admitted(tries)
    return replace(
        contents,
        tries=contents.tries + tries,
        candidates=contents.candidates + candidates,
        evaluations=contents.evaluations + tuple(_open_evaluations(campaign, number)),
    )


def write_campaign_report(campaign: Campaign, calls: CallLog) -> None:
    """Write report.html, and its numbers for `status`, from what there is; works on an unfinished campaign."""
    contents = everything_so_far(campaign)
    write_report(contents, facts=report_facts(campaign, contents, calls), out=campaign.paths.report)
    write_atomic(campaign.paths.results, canonical_json(results_now(campaign, contents, role_calls(calls))).encode())


def results_now(campaign: Campaign, contents: ArchiveContents, calls: Sequence[RoleCalls]) -> dict[str, Any]:
    """Ranking, failures and cost of the model, as JSON values."""
    return {
        **standing_values(ranking(campaign, contents), calls, is_search=bool(campaign.config.campaign.generations)),
        "trainings_failed": sum(one.ending != "finished" for one in contents.evaluations),
    }


def current_results(campaign: Campaign) -> dict[str, Any]:
    """The same, from all files as they are now."""
    calls = role_calls(CallLog(campaign.paths.calls, campaign.paths.text))
    return results_now(campaign, everything_so_far(campaign), calls)


def report_facts(campaign: Campaign, contents: ArchiveContents, calls: CallLog) -> ReportFacts:
    config = campaign.config
    closed = campaign.generations_closed()
    return ReportFacts(
        campaign=config.campaign.name,
        uuid=campaign.uuid,
        command=campaign.command,
        config=config_to_json(config),
        config_sha256=campaign.config_sha256,
        seed=config.campaign.seed,
        reference_id=reference_id(contents),
        metric=config.selection.metric,
        confidence=config.selection.confidence,
        loss_ranks=loss_ranks(campaign),
        model=config.llm.model if config.campaign.generations else "",  # baselines alone ask none
        calls=role_calls(calls),
        budget=spent(campaign),
        opinions=opinions_now(campaign, contents),
        growths=growths_before(campaign, closed),
        versions=campaign.versions,
        started_unix=campaign.started_unix,
        finished_unix=_last_write(campaign) if campaign.is_finished() else None,
        generations_done=max(0, closed - 1),
        generations_total=config.campaign.generations,
        finished=campaign.is_finished(),
    )


def opinions_now(campaign: Campaign, contents: ArchiveContents) -> Opinions:
    """What the agents said so far, and how it agrees with what was measured."""
    selection = campaign.config.selection
    agreed = agreement_in(contents, {row.candidate_id: row for row in ranking(campaign, contents)})
    return Opinions(
        analyst=analyst_counts(contents.lessons),
        judge=judge_record(campaign),
        agreement=agreed,
        weight=judge_weight(selection, agreed) if selection.policy == "asi_arch" else 0.0,
    )


def role_calls(calls: CallLog) -> tuple[RoleCalls, ...]:
    return tuple(
        RoleCalls(
            role=one.role,
            calls=one.count,
            prompt_tokens=one.prompt_tokens,
            reply_tokens=one.reply_tokens,
            seconds=one.seconds,
        )
        for one in calls.totals().values()
    )


def loss_ranks(campaign: Campaign) -> bool:
    """True where the stage trains long enough for its loss to rank architectures."""
    stage = campaign.config.stage
    return stage.steps * stage.batch_size * stage.seq_len >= _TOKENS_TO_RANK_BY_LOSS


def reference_id(contents: ArchiveContents) -> str:
    """Id of the reference; empty before it was admitted."""
    return next((one.id for one in contents.candidates if is_reference(one)), "")


def ranking(campaign: Campaign, contents: ArchiveContents) -> tuple[Standing, ...]:
    """All measured candidates, best first; empty before the reference has a result."""
    reference = reference_id(contents)
    if not any(one.task.candidate_id == reference and one.ending == "finished" for one in contents.evaluations):
        return ()
    selection = campaign.config.selection
    return standings(contents, reference_id=reference, metric=selection.metric, confidence=selection.confidence)


def ranking_table(campaign: Campaign) -> list[str]:
    """The ranking of a finished campaign in lines for a terminal."""
    contents, selection = campaign.contents(), campaign.config.selection
    return ranking_lines(
        ranking(campaign, contents),
        reference_id=reference_id(contents),
        metric=selection.metric,
        confidence=selection.confidence,
    )


def progress_of(campaign: Campaign, dispatcher: Dispatcher, *, activity: str, calls: CallLog) -> Progress:
    number = campaign.generations_closed()
    states = Counter(state.name.lower() for state in dispatcher.states.values())
    results = read_results(campaign)
    left = seconds_left(campaign, trainings_done(campaign, acknowledged(campaign)))
    return Progress(
        activity=activity,
        generation=min(number, campaign.config.campaign.generations),
        generations=campaign.config.campaign.generations,
        units=", ".join(f"{count} {state}" for state, count in sorted(states.items())),
        model=model_speed(calls),
        best=best_in_words(results["best"] if results else None, campaign.config.selection.metric),
        budget=budget_words(budget_values(dispatcher.budget())),
        elapsed_s=time.time() - campaign.started_unix,
        left="time left not known yet" if left is None else f"about {left / 60:.0f} min left",
    )


def model_speed(calls: CallLog) -> str:
    """Replies, tokens and tokens per second of the language model so far."""
    totals = calls.totals().values()
    seconds, tokens = sum(one.seconds for one in totals), sum(one.reply_tokens for one in totals)
    if not seconds:
        return "not asked yet"
    return f"{sum(one.count for one in totals)} replies, {tokens} tokens, {tokens / seconds:.1f} tokens/s in a request"


def _open_evaluations(campaign: Campaign, number: int) -> Iterator[Evaluation]:
    """Evaluations of the open generation that wait in unit folders or in shards not yet merged."""
    paths = campaign.generation(number)
    for pack in recorded_packs(number, paths, campaign.config):
        for task in pack.tasks:
            file = paths.unit(pack.unit).evaluation(task.key)
            if file.exists():
                yield read_record(Evaluation, file)


def _last_write(campaign: Campaign) -> float:
    return campaign.paths.journal.stat().st_mtime

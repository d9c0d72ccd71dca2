"""The result of a campaign in plain words: one sentence per question, computed, never written by a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from arch_search.analysis.arms import against_controls
from arch_search.analysis.by_hand import steered_by_hand
from arch_search.analysis.costs import Budget
from arch_search.analysis.noise import Noise
from arch_search.analysis.opinions import Opinions
from arch_search.analysis.statistics import Standing
from arch_search.analysis.text import count, interval, number, percent, short, signed
from arch_search.clean_text import one_line
from arch_search.proposals.growth import Growth
from cognition_db.experience.archive import ArchiveContents

METRIC_WORDS = {"recall_accuracy": "recall accuracy", "heldout_loss": "held-out loss"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleCalls:
    """What one role of the language model cost."""

    role: str
    calls: int
    prompt_tokens: int
    reply_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """What a report says about its campaign beside the archive."""

    campaign: str
    uuid: str
    command: str
    config: dict[str, Any]
    config_sha256: str
    seed: int
    reference_id: str
    metric: str
    confidence: float
    loss_ranks: bool  # false where the stage is too short for its held-out loss to rank programs
    model: str
    calls: tuple[RoleCalls, ...] = ()
    budget: Budget | None = None
    opinions: Opinions | None = None
    growths: tuple[Growth, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    started_unix: float
    finished_unix: float | None = None
    generations_done: int
    generations_total: int
    finished: bool


def summary(
    contents: ArchiveContents, rows: Sequence[Standing], noise: Noise, facts: ReportFacts, *, first: Sequence[Standing]
) -> tuple[str, ...]:
    """Sentences for the top of the report; an empty campaign gets one that says so. `first`: rows before repeats."""
    if not contents.candidates and not contents.tries:
        return ("Nothing has been recorded yet.",)
    sentences = [
        _unfinished(facts),
        _counts(contents, rows, facts),
        _reference_missing(rows, facts),
        _best(rows, facts),
        _repeated(rows, facts),
        _noise(rows, noise, facts),
        _controls(first, facts),
        _placebos(rows, facts),
        _loss(facts),
        steered_by_hand(contents),
    ]
    return tuple(sentence for sentence in sentences if sentence)


def typical_seeds(rows: Sequence[Standing]) -> int:
    """Median number of finished seeds of what the search made, or of the baselines where it made nothing yet."""
    counts = sorted(row.n for row in rows if row.arm != "baseline" and row.n) or sorted(row.n for row in rows if row.n)
    return counts[len(counts) // 2] if counts else 0


def comparisons(rows: Sequence[Standing]) -> int:
    """Programs of the search, placebos included, whose verdicts are corrected for one another."""
    return sum(row.arm != "baseline" and row.verdict != "not_measured" for row in rows)


def noise_bands(rows: Sequence[Standing], noise: Noise, confidence: float) -> tuple[float, ...]:
    """Half widths that luck alone explains: for one program, and for the luckiest of all compared (Bonferroni)."""
    seeds, compared = typical_seeds(rows), comparisons(rows)
    if noise.df < 1 or not seeds or not compared:
        return ()
    return tuple(noise.half_width(seeds, level) for level in (confidence, 1.0 - (1.0 - confidence) / compared))


def _unfinished(facts: ReportFacts) -> str:
    if facts.finished:
        return ""
    return (
        f"This campaign is not finished: {facts.generations_done} of {facts.generations_total} generations are closed, "
        "and every number below may still change."
    )


def _counts(contents: ArchiveContents, rows: Sequence[Standing], facts: ReportFacts) -> str:
    if not facts.generations_total:
        trained = sum(row.n > 0 for row in rows)
        return f"{count(trained, 'program').capitalize()} trained, the reference among them; nothing is searched for."
    searched = [row for row in rows if row.arm != "baseline"]
    trained = sum(row.n > 0 for row in searched)
    proposed = [tried for tried in contents.tries if tried.proposal.arm != "baseline"]
    admitted = sum(tried.candidate is not None for tried in proposed)
    baselines = sum(row.arm == "baseline" and row.n > 0 for row in rows)
    return (
        f"{count(len(proposed), 'program').capitalize()} proposed, {admitted} admitted, {trained} trained, "
        f"beside {count(baselines, 'baseline')}."
    )


def _reference_missing(rows: Sequence[Standing], facts: ReportFacts) -> str:
    if any(row.candidate_id == facts.reference_id and row.n for row in rows):
        return ""
    return "The reference has no finished run, so nothing can be compared with it."


def _best(rows: Sequence[Standing], facts: ReportFacts) -> str:
    if not facts.generations_total:
        return _best_baseline(rows, facts)
    searched = [row for row in rows if row.arm not in ("baseline", "placebo")]
    compared = [row for row in searched if row.verdict != "not_measured"]
    if not compared:
        return "No program of the search has been measured against the reference."
    better = [row for row in compared if row.verdict == "better"]
    leader = (better or compared)[0]
    gain = f"{signed(leader.improvement)} {interval(leader.low, leader.high)} in {METRIC_WORDS[facts.metric]}"
    named = f"{short(leader.name, 60)} ({leader.candidate_id[:8]})"
    if not better:
        return f"None is better than {_reference(rows, facts)} beyond noise; the highest-ranked is {named}, {gain}."
    verb = "is" if len(better) == 1 else "are"
    return (
        f"{len(better)} {verb} better than {_reference(rows, facts)} beyond noise, after correction for "
        f"{count(comparisons(rows), 'comparison')}; the highest-ranked is {named}, {gain}."
    )


def _best_baseline(rows: Sequence[Standing], facts: ReportFacts) -> str:
    compared = [row for row in rows if row.candidate_id != facts.reference_id and row.verdict != "not_measured"]
    if not compared:
        return "No program has been measured against the reference."
    better, worse = (sum(row.verdict == verdict for row in compared) for verdict in ("better", "worse"))
    leader = compared[0]
    return (
        f"{better or 'None'} of {len(compared)} better than {_reference(rows, facts)} beyond noise and "
        f"{worse or 'none'} worse, after correction for {count(len(compared), 'comparison')}; the highest-ranked is "
        f"{short(leader.name, 60)} ({leader.candidate_id[:8]}), {signed(leader.improvement)} "
        f"{interval(leader.low, leader.high)} in {METRIC_WORDS[facts.metric]}."
    )


def _repeated(rows: Sequence[Standing], facts: ReportFacts) -> str:
    """What was left of the gain of those that were chosen for it."""
    again = [row for row in rows if row.is_repeated]
    measured = [row for row in again if math.isfinite(row.improvement)]
    if not again:
        return ""
    what = f"{count(len(again), 'program').capitalize()} {'was' if len(again) == 1 else 'were'}"
    lost = len(again) - len(measured)
    finished = f" ({lost} did not finish)" if lost else ""
    if not measured:
        return f"{what} trained again with hidden seeds before becoming parents; none finished."
    before = math.fsum(row.first for row in measured) / len(measured)
    after = math.fsum(row.improvement for row in measured) / len(measured)
    return (
        f"{what} trained again with hidden seeds before becoming parents{finished}: their mean improvement in "
        f"{METRIC_WORDS[facts.metric]} was {signed(before)} when they were chosen and is {signed(after)} now; only the "
        "latter counts."
    )


def _noise(rows: Sequence[Standing], noise: Noise, facts: ReportFacts) -> str:
    if noise.df < 1:
        return (
            "Noise is unknown: too few programs were trained with two seeds, so nothing can be called better or worse."
        )
    seeds = max(1, typical_seeds(rows))
    return (
        f"Two runs of one program differ by chance with a standard deviation of {number(noise.sd)} "
        f"({noise.df} degrees of freedom): over {count(seeds, 'seed')} a difference below "
        f"{number(noise.half_width(seeds, facts.confidence))} cannot be told from luck at {percent(facts.confidence)} "
        "confidence, even for a single comparison."
    )


def _controls(rows: Sequence[Standing], facts: ReportFacts) -> str:
    """What the model's programs that build on earlier ones gain over those of each control."""
    contrasts = against_controls(rows, confidence=facts.confidence)
    if not contrasts:
        return ""
    named = {"best_of_n": "of the same model without history", "mutate": "of random mutation"}
    parts = [
        f"{signed(one.difference)} {interval(one.low, one.high)} against {count(one.control_n, 'program')} "
        f"{named[one.control]}"
        for one in contrasts
    ]
    hint = "" if all(one.low > 0 for one in contrasts) else " An interval that holds zero shows no advantage."
    return (
        f"The {contrasts[0].n} programs that the model built on earlier ones gain on average {', '.join(parts)}.{hint}"
    )


def _placebos(rows: Sequence[Standing], facts: ReportFacts) -> str:
    placebos = [row for row in rows if row.arm == "placebo" and math.isfinite(row.improvement)]
    if not placebos:
        return ""
    mean = math.fsum(row.improvement for row in placebos) / len(placebos)
    false_alarms = sum(row.verdict in ("better", "worse") for row in placebos)
    return (
        f"{count(len(placebos), 'placebo').capitalize()} ({_reference(rows, facts)} in another text): mean difference "
        f"{signed(mean)}, {false_alarms or 'none'} of them called different; any that is shows what luck can do."
    )


def _loss(facts: ReportFacts) -> str:
    if facts.loss_ranks:
        return ""
    return (
        "At this stage the language-model loss ranks nothing: training is too short, and seeds differ more than "
        f"programs do. The ranking is by {METRIC_WORDS[facts.metric]} with its interval."
    )


def _reference(rows: Sequence[Standing], facts: ReportFacts) -> str:
    name = next((row.name for row in rows if row.candidate_id == facts.reference_id), "the reference")
    return f"the reference {short(one_line(name), 40)}" if name != "the reference" else name

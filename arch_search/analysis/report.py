"""The report of a campaign: one HTML file that holds all it needs and loads nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from arch_search.analysis import arms, failures, figures, text
from arch_search.analysis.family_tree import family_tree
from arch_search.analysis.noise import Noise
from arch_search.analysis.opinions import opinion_sentences
from arch_search.analysis.parents import against_parents
from arch_search.analysis.provenance import provenance
from arch_search.analysis.reach import reaches, simpler
from arch_search.analysis.statistics import Standing, judged_values, noise_of, standings, without_repeats
from arch_search.analysis.summary import METRIC_WORDS, ReportFacts, comparisons, noise_bands, summary, typical_seeds
from arch_search.clean_text import clean
from arch_search.proposals.growth import toolbox_of
from cognition_db.experience.archive import ArchiveContents
from cognition_db.experience.files import write_atomic
from cognition_db.records import WRITTEN_ARMS, Candidate, Certificate, Lesson

_FOREST_ROWS = 24  # programs of the search in the interval figure; all are in the table
_FOREST_PLACEBOS = 5
_PROGRAMS = 10
_PROGRAM_CHARACTERS = 40_000
_COLOURS = {
    "better": figures.BETTER,
    "worse": figures.WORSE,
    "within_noise": figures.NEUTRAL,
    "placebo": figures.PLACEBO,
    "baseline": figures.BASELINE,
    "reference": figures.REFERENCE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderboardRow:
    """One line of the table. `ends_noise` is true for the last program that is better beyond noise."""

    rank: int
    standing: Standing
    colour: str
    heldout_loss: float
    causality: str
    is_reference: bool
    ends_noise: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationCost:
    """What the training of one generation cost."""

    generation: int
    programs: int
    runs: int
    tokens: int
    cpu_hours: float
    wall_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonRow:
    lesson: Lesson
    name: str


def write_report(contents: ArchiveContents, *, facts: ReportFacts, out: Path) -> None:
    """Write the report of a campaign in any state, also an empty one; the file is replaced in one step."""
    write_atomic(out, render(contents, facts=facts).encode("utf-8"))


def render(contents: ArchiveContents, *, facts: ReportFacts) -> str:
    """The report as HTML text. Every string of the archive is escaped and stripped of control characters."""
    rows = standings(contents, reference_id=facts.reference_id, metric=facts.metric, confidence=facts.confidence)
    noise = noise_of(contents, reference_id=facts.reference_id, metric=facts.metric)
    # arms are compared as they stood before repeats: only chosen programs have those
    before = without_repeats(contents)
    first = standings(before, reference_id=facts.reference_id, metric=facts.metric, confidence=facts.confidence)
    parents = against_parents(before, reference_id=facts.reference_id, metric=facts.metric, confidence=facts.confidence)
    half_width = noise.half_width(max(1, typical_seeds(rows)), facts.confidence)
    names = {candidate.id: candidate.name for candidate in contents.candidates}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            facts=facts,
            metric_words=METRIC_WORDS[facts.metric],
            sentences=summary(contents, rows, noise, facts, first=first),
            reference_name=names.get(facts.reference_id, ""),
            noise=noise,
            half_width=half_width,
            seeds=typical_seeds(rows),
            comparisons=comparisons(rows) if noise.df else 0,
            leaderboard=leaderboard(contents, rows, facts.reference_id),
            any_better=any(row.verdict == "better" for row in rows),
            forest=_forest(rows, facts, noise),
            forest_cut=sum(row.arm != "baseline" for row in rows) > _FOREST_ROWS,
            curves=figures.learning_curves(
                figures.mean_curves(contents.evaluations), rows, reference_id=facts.reference_id
            ),
            tree=family_tree(contents.candidates, rows, reference_id=facts.reference_id, noise_half_width=half_width),
            groups=_groups(before, first, parents, facts),
            reaches=reaches(
                contents,
                reference_id=facts.reference_id,
                parents=parents,
                confidence=facts.confidence,
                toolbox=toolbox_of(facts.growths),
            ),
            growths=[offer for growth in facts.growths for offer in growth.offers],
            simpler=simpler(contents, parents=parents, confidence=facts.confidence),
            origins=provenance(contents, rows, confidence=facts.confidence),
            opinions=opinion_sentences(facts.opinions) if facts.opinions else (),
            refusals=failures.refusals(contents.tries),
            unusable=failures.unusable(contents.tries, contents.lessons),
            endings=failures.endings(contents.evaluations),
            costs=generation_costs(contents),
            lessons=[LessonRow(lesson=lesson, name=names.get(lesson.candidate_id, "")) for lesson in contents.lessons],
            programs=_programs(contents.candidates, rows),
            settings=flat_settings(facts.config),
            started=_moment(facts.started_unix),
            finished=_moment(facts.finished_unix),
            colours=_COLOURS,
        )
    )


def leaderboard(contents: ArchiveContents, rows: Sequence[Standing], reference_id: str) -> tuple[LeaderboardRow, ...]:
    """All programs by rank, with the line after the last one that is better beyond noise."""
    losses = judged_values(contents.evaluations, "heldout_loss", reference_id=reference_id)
    candidates = {candidate.id: candidate for candidate in contents.candidates}
    trained: dict[str, list[Certificate]] = {}
    for one in contents.evaluations:
        if one.certificate is not None:
            trained.setdefault(one.task.candidate_id, []).append(one.certificate)
    last_better = max((rank for rank, row in enumerate(rows, 1) if row.verdict == "better"), default=0)
    return tuple(
        LeaderboardRow(
            rank=rank,
            standing=row,
            colour=figures.colour_of(row, reference_id),
            heldout_loss=_mean(losses.get(row.candidate_id, {})),
            causality=_causality(candidates[row.candidate_id], trained.get(row.candidate_id, ())),
            is_reference=row.candidate_id == reference_id,
            ends_noise=rank == last_better,
        )
        for rank, row in enumerate(rows, 1)
    )


def _causality(candidate: Candidate, trained: Sequence[Certificate]) -> str:
    """How it is known that the program does not see the future, and of how many trainings' weights it was proved."""
    proved = any(one.check == "certificate" and one.outcome == "passed" for one in candidate.verdicts)
    before = "proved" if proved else "tested"
    if not trained:
        return before
    return f"{before}; trained {sum(one.outcome == 'passed' for one in trained)} of {len(trained)}"


def generation_costs(contents: ArchiveContents) -> tuple[GenerationCost, ...]:
    """Training cost by the generation a program came from; 0 is the baselines."""
    born = {candidate.id: candidate.generation for candidate in contents.candidates}
    costs = []
    for generation in sorted(
        {born[row.task.candidate_id] for row in contents.evaluations if row.task.candidate_id in born}
    ):
        runs = [row for row in contents.evaluations if born.get(row.task.candidate_id) == generation]
        costs.append(
            GenerationCost(
                generation=generation,
                programs=len({run.task.candidate_id for run in runs}),
                runs=len(runs),
                tokens=sum(run.tokens_seen for run in runs),
                cpu_hours=math.fsum(run.cpu_s for run in runs) / 3600,
                wall_hours=math.fsum(run.wall_s for run in runs) / 3600,
            )
        )
    return tuple(costs)


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """The configuration as `a.b.c` and value, in the order given."""
    settings: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            settings += flat_settings(value, f"{prefix}{key}.")
        else:
            settings.append((f"{prefix}{key}", "null" if value is None else str(value)))
    return tuple(settings)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("arch_search", "analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": text.number,
        "signed": text.signed,
        "p_value": text.p_value,
        "origin": _origin,
        "percent": text.percent,
        "duration": text.duration,
        "short": text.short,
        "grouped": lambda value: f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}"),
    }
    environment.globals |= {"interval": text.interval}
    return environment


def _printable(value: Any) -> Any:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _origin(row: Standing) -> str:
    """Arm, and the rung where an arm has several."""
    return f"{row.arm}, {row.rung.replace('_', ' ')}" if row.arm in WRITTEN_ARMS else row.arm


def _forest(rows: Sequence[Standing], facts: ReportFacts, noise: Noise) -> Markup:
    searched = [row for row in rows if row.arm != "baseline"]
    # some placebos beyond the cut stay: they show what luck looks like
    placebos = [row for row in searched[_FOREST_ROWS:] if row.arm == "placebo"][:_FOREST_PLACEBOS]
    baselines = [row for row in rows if row.arm == "baseline"]
    shown = {row.candidate_id for row in [*searched[:_FOREST_ROWS], *placebos, *baselines]}
    return figures.intervals(
        [figures.interval_row(row, facts.reference_id) for row in rows if row.candidate_id in shown],
        bands=noise_bands(rows, noise, facts.confidence),
        axis=f"improvement in {METRIC_WORDS[facts.metric]} over the reference (right is better)",
    )


def _groups(
    contents: ArchiveContents, rows: Sequence[Standing], parents: arms.OverParents, facts: ReportFacts
) -> tuple[tuple[str, tuple[arms.Group, ...], Markup], ...]:
    """Title, groups and interval figure of the arms and of the rungs, from what there was before repeats."""
    noise = noise_of(contents, reference_id=facts.reference_id, metric=facts.metric)
    tables = (
        ("Arms", arms.by_arm(contents, rows, parents=parents, noise=noise, confidence=facts.confidence)),
        ("Rungs", arms.by_rung(contents, rows, parents=parents, noise=noise, confidence=facts.confidence)),
    )
    return tuple((title, groups, _group_figure(groups)) for title, groups in tables if groups)


def _group_figure(groups: Sequence[arms.Group]) -> Markup:
    rows = [
        figures.IntervalRow(
            label=group.label.replace("_", " "),
            value=group.improvement,
            low=group.low,
            high=group.high,
            colour=figures.PLACEBO if group.label in ("placebo", "copy") else figures.NEUTRAL,
            shape="square" if group.label in ("placebo", "copy") else "circle",
            title=f"{group.label}: {group.better.total} measured",
        )
        for group in groups
        if math.isfinite(group.improvement)
    ]
    return figures.intervals(rows, bands=(), axis="mean improvement over the reference, all measured programs")


def _programs(candidates: Sequence[Candidate], rows: Sequence[Standing]) -> list[tuple[Standing, Candidate, str]]:
    """The best measured programs of the search with their text, cut where it is very long."""
    by_id = {candidate.id: candidate for candidate in candidates}
    best = [row for row in rows if row.arm not in ("baseline", "placebo") and math.isfinite(row.improvement)]
    return [
        (row, by_id[row.candidate_id], by_id[row.candidate_id].program[:_PROGRAM_CHARACTERS])
        for row in best[:_PROGRAMS]
    ]


def _mean(values: Mapping[int, float]) -> float:
    return math.fsum(values.values()) / len(values) if values else math.nan


def _moment(unix: float | None) -> str:
    return "" if unix is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix))

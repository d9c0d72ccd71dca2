"""The state of a campaign as lines of at most 80 columns, for a terminal or a pipe."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from arch_search.analysis.text import duration
from arch_search.clean_text import clean

COLUMNS = 80
_INDENT = 12
_STATES = ("waiting", "running", "done", "held", "ended", "unknown")
_HEADS = ("WAIT", "RUN", "DONE", "HELD", "ENDED", "UNKN")
_MOST_NOTES = 4  # of one array; the rest is counted

Tone = Literal["plain", "head", "warning"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line. `tone` says how a terminal that has colours may show it."""

    text: str
    tone: Tone = "plain"


def status_lines(facts: Mapping[str, Any]) -> list[Line]:
    """What `arch-search status` prints, from the values of its --json."""
    finished = " (finished)" if facts["finished"] else ""
    lines = [
        *_labelled("campaign", f"{facts['campaign']} in {facts['dir']}{finished}", tone="head"),
        *_labelled("generation", f"{facts['generation']} of {facts['generations_total']}; {_counts(facts['tasks'])}"),
        *_labelled("proposed", f"{facts['proposed']}, admitted {facts['admitted']}"),
        *_labelled("trainings", _trainings(facts)),
        *_labelled("best", str(facts["best_in_words"])),
        *_labelled("model", str(facts["model_server"])),
        *_labelled("driver", str(facts["driver"]["words"])),
        *_labelled("budget", budget_words(facts["budget"])),
        *(_labelled("last event", facts["last_event"]) if facts["last_event"] else []),
        *(_labelled("report", facts["report"]) if facts["report"] else []),
    ]
    for reason in facts["stopped_by"]:
        lines += _labelled("stands still", reason, tone="warning")
    if facts["arrays"]:
        lines += [Line(""), *array_table(facts["arrays"], seen=facts["seen"])]
    return lines


def array_table(arrays: Sequence[Mapping[str, Any]], *, seen: str) -> list[Line]:
    """squeue-like: a line for each array, and below it why its elements wait, are held or ended."""
    heads = "".join(f"{head:>7}" for head in _HEADS)
    lines = [Line(f"{'JOBID':<11} {'GEN':>4} {'RND':>3}{heads} {'TIME_LIMIT':>11}", "head")]
    for array in arrays:
        counts = [array["states"].get(state, 0) for state in _STATES]
        tone: Tone = "warning" if array["states"].get("held") or array["states"].get("unknown") else "plain"
        cells = "".join(f"{count:>7}" for count in counts)
        place = f"{array['job_id'] or '(later)':<11.11} {array['generation']:>4} {array['round']:>3}"
        # local processes have no time limit
        limit = "-" if array["job_id"] in ("local", "inline") else slurm_time(array["timeout_min"])
        lines.append(Line(f"{place}{cells} {limit:>11}", tone))
        notes = sorted(array["notes"].items(), key=lambda item: -item[1])
        for note, elements in notes[:_MOST_NOTES]:
            said = clean(note).replace("<job>", array["job_id"] or "<job>")
            lines += [Line(text, tone) for text in _wrapped(f"{elements:>10}  {said}", indent=_INDENT)]
        if len(notes) > _MOST_NOTES:
            lines.append(Line(f"{'':{_INDENT}}and {len(notes) - _MOST_NOTES} more reasons"))
    return [*lines, Line(seen)]


def budget_words(budget: Mapping[str, Any]) -> str:
    """One sentence: used, limit, left, and what it went into."""
    spent = ", ".join(f"{outcome} {hours:.3g}" for outcome, hours in budget["by_outcome"].items() if hours)
    limit = "no limit" if budget["limit"] is None else f"of {budget['limit']:g}, {budget['left']:.3g} left"
    return f"{budget['used']:.3g} {budget['unit']} used, {limit}{f' ({spent})' if spent else ''}"


def slurm_time(minutes: int) -> str:
    """As squeue prints it: [[days-]hours:]minutes:seconds."""
    days, hours = minutes // (24 * 60), minutes // 60 % 24
    if days:
        return f"{days}-{hours:02d}:{minutes % 60:02d}:00"
    return f"{hours}:{minutes % 60:02d}:00" if hours else f"{minutes}:00"


def _trainings(facts: Mapping[str, Any]) -> str:
    left = f"; about {duration(facts['seconds_left'])} left" if facts["seconds_left"] else ""
    return f"{facts['trainings_done']} of {facts['trainings_planned']}; {facts['trainings_failed']} failed{left}"


def _counts(tasks: Mapping[str, int]) -> str:
    return f"units: {', '.join(f'{count} {state}' for state, count in tasks.items()) or 'none'}"


def _labelled(label: str, text: str, *, tone: Tone = "plain") -> list[Line]:
    return [Line(line, tone) for line in _wrapped(f"{label:<{_INDENT}} {clean(text)}", indent=_INDENT + 1)]


def _wrapped(text: str, *, indent: int) -> list[str]:
    """A path that is longer than a line stays whole: it is there to be copied."""
    return textwrap.wrap(text, COLUMNS, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)

"""The measured programs of a campaign as a table of at most 80 columns, best first."""

from __future__ import annotations

from collections.abc import Sequence

from arch_search.analysis.statistics import Standing
from arch_search.analysis.summary import METRIC_WORDS
from arch_search.analysis.text import interval, number, short, signed

_ROWS = 20


def ranking_lines(rows: Sequence[Standing], *, reference_id: str, metric: str, confidence: float) -> list[str]:
    """One line for each program, at most 20 of them and the reference; none before anything was measured."""
    if not rows:
        return []
    shown = [row for rank, row in enumerate(rows) if rank < _ROWS or row.candidate_id == reference_id]
    left_out = len(rows) - len(shown)
    return [
        f"{METRIC_WORDS[metric]}; improvement over the reference in paired seeds, {confidence:.0%} intervals",
        _line("program", "seeds", "mean", "improvement", "verdict"),
        *(_row(row, is_reference=row.candidate_id == reference_id) for row in shown),
        *([f"and {left_out} more in the report"] if left_out else []),
    ]


def _row(row: Standing, *, is_reference: bool) -> str:
    improvement = "" if is_reference else f"{signed(row.improvement)} {interval(row.low, row.high)}".rstrip()
    verdict = "reference" if is_reference else row.verdict.replace("_", " ")
    return _line(short(row.name, 29), str(row.n), number(row.mean), improvement, verdict)


def _line(name: str, seeds: str, mean: str, improvement: str, verdict: str) -> str:
    return f"{name:<29} {seeds:>5} {mean:>6} {improvement:<23} {verdict}".rstrip()

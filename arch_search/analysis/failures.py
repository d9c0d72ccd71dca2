"""Failures by cause: which checks refused proposals and why, and how training runs ended."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from arch_search.analysis.text import short
from arch_search.clean_text import one_line
from cognition_db.records import Evaluation, Lesson, SlotTry

_REASONS_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One cause with the reasons given most often, each with its count and numbers replaced by #."""

    label: str
    count: int
    reasons: tuple[tuple[str, int], ...]


def refusals(tries: Sequence[SlotTry]) -> tuple[Cause, ...]:
    """Refused proposals by the first check that refused them, most frequent first."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for tried in tries:
        if tried.candidate is not None:
            continue
        first = tried.refusing
        reasons[first.check if first else "no verdict"].append(first.reason if first else "")
    return _causes(reasons)


def unusable(tries: Sequence[SlotTry], lessons: Sequence[Lesson]) -> tuple[Cause, ...]:
    """Roles beside the writers that were asked and sent nothing of use, most frequent first."""
    said = [reason for one in tries if one.proposal.writing for reason in one.proposal.writing.unusable]
    said += [reason for one in lessons if one.analysis for reason in one.analysis.unusable]
    reasons: dict[str, list[str]] = defaultdict(list)
    for role, _, reason in (one.partition(": ") for one in said):
        # ours begin with the key of the call, which is another one each time
        reasons[role].append(reason.partition(": ")[2] or reason)
    return _causes(reasons)


def endings(evaluations: Sequence[Evaluation]) -> tuple[Cause, ...]:
    """Training runs by how they ended, most frequent first; `finished` is one of them."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for evaluation in evaluations:
        reasons[evaluation.ending].append(evaluation.cause)
    return _causes(reasons)


def _causes(reasons: dict[str, list[str]]) -> tuple[Cause, ...]:
    causes = [
        Cause(label=label, count=len(given), reasons=tuple(_alike(given).most_common(_REASONS_SHOWN)))
        for label, given in reasons.items()
    ]
    return tuple(sorted(causes, key=lambda cause: (-cause.count, cause.label)))


def _alike(reasons: Sequence[str]) -> Counter[str]:
    """Reasons that differ only in their numbers are counted as one."""
    return Counter(short(re.sub(r"\d[\d.e+-]*", "#", one_line(reason)), 160) for reason in reasons if reason.strip())

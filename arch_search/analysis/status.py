"""Parts of the state of a campaign as plain JSON values, for `arch-search status --json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arch_search.analysis.costs import Budget
    from arch_search.analysis.statistics import Standing
    from arch_search.analysis.summary import RoleCalls


def standing_values(
    standings: Sequence[Standing], calls: Sequence[RoleCalls], *, is_search: bool = True
) -> dict[str, Any]:
    """The ranking and the cost of the language model, without NaN: what is unknown is null.

    `is_search`: baselines and placebos do not count; false where a campaign has nothing but baselines.
    """
    judged = [row for row in standings if not is_search or row.arm not in ("baseline", "placebo")]
    reply_tokens = sum(call.reply_tokens for call in calls)
    waited_s = math.fsum(call.seconds for call in calls)
    return {
        "best": best_of(judged),
        "verdicts": {
            verdict: sum(row.verdict == verdict for row in judged)
            for verdict in ("better", "within_noise", "worse", "not_measured")
        },
        "tokens": {
            "prompt": sum(call.prompt_tokens for call in calls),
            "reply": reply_tokens,
            "calls": sum(call.calls for call in calls),
            "reply_per_s": round(reply_tokens / waited_s, 2) if waited_s > 0 else None,
        },
    }


def budget_values(budget: Budget) -> dict[str, Any]:
    """Hours to four digits behind the point."""
    return {
        "unit": budget.unit,
        "used": round(budget.used, 4),
        "limit": budget.limit,
        "left": None if budget.left is None else round(budget.left, 4),
        "gpu_hours": round(budget.gpu_hours, 4),
        "core_hours": round(budget.core_hours, 4),
        "by_outcome": {outcome: round(hours, 4) for outcome, hours in budget.by_outcome.items()},
    }


def best_of(standings: Sequence[Standing]) -> dict[str, Any] | None:
    """The measured program that ranks highest, with its interval; None before there is one."""
    best = next((row for row in standings if math.isfinite(row.improvement)), None)
    if best is None:
        return None
    return {
        "id": best.candidate_id,
        "name": best.name,
        "generation": best.generation,
        "seeds": best.n,
        "mean": _or_none(best.mean),
        "improvement": _or_none(best.improvement),
        "low": _or_none(best.low),
        "high": _or_none(best.high),
        "verdict": best.verdict,
    }


def _or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

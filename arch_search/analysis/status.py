"""The state of a campaign as plain JSON values, for `arch-search status --json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from arch_search.analysis.statistics import Standing
from arch_search.analysis.summary import RoleCalls


def status_values(
    *,
    campaign: str,
    uuid: str,
    generation: int,
    generations_total: int,
    finished: bool,
    tasks_by_state: Mapping[str, int],
    standings: Sequence[Standing],
    calls: Sequence[RoleCalls],
    metric: str,
    confidence: float,
    seconds_left: float | None,
) -> dict[str, Any]:
    """One dictionary without NaN: what is unknown is null. `seconds_left` is an estimate, null where there is none."""
    reply_tokens = sum(call.reply_tokens for call in calls)
    waited_s = math.fsum(call.seconds for call in calls)
    return {
        "campaign": campaign,
        "uuid": uuid,
        "generation": generation,
        "generations_total": generations_total,
        "finished": finished,
        "tasks": dict(sorted(tasks_by_state.items())),
        "metric": metric,
        "confidence": confidence,
        "best": best_so_far(standings),
        "verdicts": {
            verdict: sum(row.verdict == verdict for row in standings if row.arm not in ("baseline", "placebo"))
            for verdict in ("better", "within_noise", "worse", "not_measured")
        },
        "tokens": {
            "prompt": sum(call.prompt_tokens for call in calls),
            "reply": reply_tokens,
            "calls": sum(call.calls for call in calls),
            "reply_per_s": round(reply_tokens / waited_s, 2) if waited_s > 0 else None,
        },
        "seconds_left": _or_none(seconds_left),
    }


def best_so_far(standings: Sequence[Standing]) -> dict[str, Any] | None:
    """The measured program of the search that ranks highest, with its interval; None before there is one."""
    searched = (row for row in standings if row.arm not in ("baseline", "placebo"))
    best = next((row for row in searched if math.isfinite(row.improvement)), None)
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

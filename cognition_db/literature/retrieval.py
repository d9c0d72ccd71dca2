"""Retrieval of insights by BM25 over trigger, claim and tags: no network, no model, the same answer every time."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from cognition_db.records import Insight

# Robertson and Zaragoza, The Probabilistic Relevance Framework (2009): usual values
_K1 = 1.2
_B = 0.75


def retrieve(query: str, insights: Sequence[Insight], k: int) -> tuple[Insight, ...]:
    """The `k` insights that answer `query` best, best first; equal scores stand in the order of their ids."""
    counts = {insight.id: Counter(_words(_searched_text(insight))) for insight in insights}
    lengths = {insight_id: count.total() for insight_id, count in counts.items()}
    mean_length = sum(lengths.values()) / max(1, len(lengths))
    frequency = Counter(word for count in counts.values() for word in count)

    def score(insight: Insight) -> float:
        count, length = counts[insight.id], lengths[insight.id]
        damping = _K1 * (1 - _B + _B * length / mean_length)
        return sum(
            math.log(1 + (len(counts) - frequency[word] + 0.5) / (frequency[word] + 0.5))
            * count[word]
            * (_K1 + 1)
            / (count[word] + damping)
            for word in sorted(set(_words(query)))
        )

    return tuple(sorted(insights, key=lambda insight: (-score(insight), insight.id))[:k])


def _searched_text(insight: Insight) -> str:
    return " ".join((insight.trigger, insight.claim, *insight.tags))


def _words(text: str) -> list[str]:
    """Lower-case words, without the plural s, so that "gates" finds "gate" and "write_strength" finds "write"."""
    return [word.removesuffix("s") if len(word) > 3 else word for word in re.findall(r"[a-z0-9]+", text.lower())]

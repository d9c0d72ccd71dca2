"""Retrieval of insights by BM25 over what they say: no network, no model, the same answer every time.

Where an embedding model has said how near each insight is, both rankings count.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import snowballstemmer

from cognition_db.records import Insight

# Robertson and Zaragoza, The Probabilistic Relevance Framework (2009): usual values
_K1 = 1.2
_B = 0.75
# words of a symptom count most: they are what a query is made of
_WEIGHTS = {"trigger": 3, "also": 2, "claim": 2, "section": 1, "title": 1}
# Cormack, Clarke and Buettcher, Reciprocal Rank Fusion (2009)
_FUSION = 60
_STEMMER = snowballstemmer.stemmer("english")
_FUNCTION_WORDS = """
a about after again against all also although am an and another any are around as at be because been before being
below between both but by can cannot could did do does doing down during each either else enough even ever every few
for from further get gets had has have having here how however i if in into is it its itself just least less let like
many may me might more most much must my near nearly neither never no nor not nothing now of off often on once one
only onto or other others our out over own per quite rather same seem seems several shall should since so some still
such than that the their them then there these they thing this those though through thus to too toward two under
unless until up upon us use used uses using very was we were what whatever when where whether which while who whom
whose why will with within without would yet you your
"""
_STOP = frozenset(_FUNCTION_WORDS.split())


def retrieve(
    query: str, insights: Sequence[Insight], k: int, nearness: Mapping[str, float] | None = None
) -> tuple[Insight, ...]:
    """The `k` insights that answer `query` best, best first; equal scores stand in the order of their ids.

    `nearness` has a number for the id of every insight, larger where it is nearer to the query: an insight's score is
    then 1 / (60 + its rank) by the words plus the same by nearness.
    """
    by_words = _ranked(insights, _bm25(query, insights))
    if nearness is None:
        return by_words[:k]
    fused = dict.fromkeys((one.id for one in insights), 0.0)
    for ranked in (by_words, _ranked(insights, nearness)):
        for rank, insight in enumerate(ranked):
            fused[insight.id] += 1 / (_FUSION + rank)
    return _ranked(insights, fused)[:k]


def symptom(insight: Insight) -> str:
    """What one observes when the insight is likely to help, in all its words."""
    return " ".join((insight.trigger, *insight.also))


def _ranked(insights: Sequence[Insight], scores: Mapping[str, float]) -> tuple[Insight, ...]:
    return tuple(sorted(insights, key=lambda insight: (-scores[insight.id], insight.id)))


def _bm25(query: str, insights: Sequence[Insight]) -> dict[str, float]:
    counts = {insight.id: _counts(insight) for insight in insights}
    lengths = {insight_id: count.total() for insight_id, count in counts.items()}
    mean_length = sum(lengths.values()) / max(1, len(lengths))
    asked = sorted(set(_words(query)))
    frequency = {word: sum(word in count for count in counts.values()) for word in asked}

    def score(insight: Insight) -> float:
        count, length = counts[insight.id], lengths[insight.id]
        damping = _K1 * (1 - _B + _B * length / mean_length)
        return sum(
            math.log(1 + (len(counts) - frequency[word] + 0.5) / (frequency[word] + 0.5))
            * count[word]
            * (_K1 + 1)
            / (count[word] + damping)
            for word in asked
        )

    return {insight.id: score(insight) for insight in insights}


@lru_cache(maxsize=4096)
def _counts(insight: Insight) -> Counter[str]:
    """Words of the searched fields, by their weights."""
    counts: Counter[str] = Counter()
    for name, weight in _WEIGHTS.items():
        value = getattr(insight, name)
        for word in _words(" ".join(value) if isinstance(value, tuple) else value):
            counts[word] += weight
    return counts


def _words(text: str) -> list[str]:
    """Stems (Porter 2) of the words that carry meaning."""
    return [_stem(word) for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in _STOP]


@lru_cache(maxsize=16384)
def _stem(word: str) -> str:
    stem: str = _STEMMER.stemWord(word)
    return stem

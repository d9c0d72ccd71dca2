"""The literature: every insight has its source, a malformed one is refused, retrieval is right and repeatable."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest

from cognition_db.experience.errors import InsightError
from cognition_db.literature import load_insights, retrieve
from cognition_db.literature.loading import Tag, parse_insights

GOOD: dict[str, Any] = {
    "id": "2406.06484-unit_keys",
    "arxiv_id": "2406.06484",
    "section": "Architecture of the layer",
    "title": "Some title",
    "claim": "With keys of unit length the transition of the delta rule never grows.",
    "trigger": "Loss spikes in a layer with a delta rule.",
    "how": "k = l2norm(silu(W_k x))",
    "cost": "negligible",
    "tags": ["write_strength"],
}


def test_the_literature_holds_a_hundred_works_of_two_to_four_insights_and_every_tag() -> None:
    insights = load_insights()
    works = Counter(insight.arxiv_id for insight in insights)
    assert len(works) >= 100
    assert set(works.values()) <= {2, 3, 4}
    assert {tag for insight in insights for tag in insight.tags} == set(get_args(Tag))
    assert len({insight.id for insight in insights}) == len(insights)


def test_no_insight_says_what_another_says_already() -> None:
    insights = load_insights()
    for field in ("claim", "trigger"):
        texts = [getattr(insight, field).lower() for insight in insights]
        assert len(set(texts)) == len(texts), field


def test_what_its_writer_was_not_sure_of_is_marked() -> None:
    marked = [insight for insight in load_insights() if insight.uncertain]
    assert 0 < len(marked) < len(load_insights()) / 4
    (insight,) = parse_insights("2406.06484.json", json.dumps([{**GOOD, "uncertain": True}]))
    assert insight.uncertain


def test_a_well_formed_insight_is_read() -> None:
    (insight,) = parse_insights("2406.06484.json", json.dumps([GOOD]))
    assert (insight.id, insight.tags) == (GOOD["id"], ("write_strength",))


@pytest.mark.parametrize(
    "change, field",
    [
        ({"arxiv_id": ""}, "arxiv_id"),
        ({"arxiv_id": "cs/0112017"}, "arxiv_id"),
        ({"section": ""}, "section"),
        ({"claim": "x" * 361}, "claim"),
        ({"claim": "too short"}, "claim"),
        ({"trigger": "one line\nand another one"}, "trigger"),
        ({"how": "y" * 261}, "how"),
        ({"tags": []}, "tags"),
        ({"tags": ["magic"]}, "tags.0"),
        ({"url": "elsewhere"}, "url"),
        ({"id": "unit_keys"}, "id"),
    ],
)
def test_a_malformed_insight_is_refused_by_file_and_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InsightError, match=rf"^2406\.06484\.json: {field}: [^\n]+$"):
        parse_insights("2406.06484.json", json.dumps([{**GOOD, **change}]))


@pytest.mark.parametrize("missing", GOOD)
def test_an_insight_without_one_of_its_fields_is_refused(missing: str) -> None:
    with pytest.raises(InsightError, match=f"{missing}: Field required"):
        parse_insights("2406.06484.json", json.dumps([{name: GOOD[name] for name in GOOD if name != missing}]))


def test_an_insight_in_the_file_of_another_paper_is_refused() -> None:
    with pytest.raises(InsightError, match="belongs to another paper's file"):
        parse_insights("2412.06464.json", json.dumps([GOOD]))


@pytest.mark.parametrize("text", ["", "[", "3"])
def test_a_file_that_is_no_list_of_insights_is_refused(text: str) -> None:
    with pytest.raises(InsightError, match="not a JSON list"):
        parse_insights("2406.06484.json", text)


@pytest.mark.parametrize(
    "query, expected",
    [
        ("model can't compute parity, a state that flips", "2411.12537-negative_eigenvalues"),
        ("attention sinks: heads put mass on the first token", "2505.06708-head_gate_after_readout"),
        ("the same key is written again and old and new values mix", "2102.11174-delta_update"),
        ("induction fails: return the token that followed an earlier copy", "2212.14052-shift_then_multiply"),
        ("stale content after a change of topic in a delta rule layer", "2412.06464-decay_and_delta"),
    ],
)
def test_an_observation_finds_its_insight(query: str, expected: str) -> None:
    assert expected in [insight.id for insight in retrieve(query, load_insights(), 2)]


@pytest.mark.parametrize("part", ["held_out", "tuned_on"])
def test_observations_in_other_words_find_an_insight_that_helps(part: str) -> None:
    """Queries and labels were written by who had not seen the search; `held_out` was looked at once, at its end."""
    asked = json.loads((Path(__file__).parents[1] / "data" / "literature_queries.json").read_text())[part]
    insights = load_insights()
    known = {insight.id for insight in insights}
    assert len(asked) == 40
    assert all(known.issuperset(one["relevant"]) for one in asked)
    found = [{insight.id for insight in retrieve(one["query"], insights, 5)} for one in asked]
    hits = sum(bool(ids.intersection(one["relevant"])) for ids, one in zip(found, asked, strict=True))
    assert hits / len(asked) >= 0.8
    blind = {insight.id for insight in insights[:5]}
    assert sum(bool(blind.intersection(one["relevant"])) for one in asked) / len(asked) < 0.2


def test_what_an_embedding_model_finds_nearest_counts_as_much_as_the_words() -> None:
    insights, query = load_insights(), "decay gates forget too fast"
    words = retrieve(query, insights, len(insights))
    last, tenth = words[-1], words[9]
    nearness = {one.id: -float(rank) for rank, one in enumerate(words)}
    assert retrieve(query, insights, 5, nearness) == words[:5]
    assert tenth in retrieve(query, insights, 5, nearness | {tenth.id: 1.0})
    # first by words and last by nearness stands where last by words and first by nearness does
    turned = {one.id: float(rank) for rank, one in enumerate(words)}
    assert {one.id for one in retrieve(query, insights, 2, turned)} == {words[0].id, last.id}


def test_retrieval_does_not_depend_on_the_order_of_the_insights() -> None:
    insights = load_insights()
    query = "decay gates forget too fast"
    assert retrieve(query, insights, 5) == retrieve(query, insights[::-1], 5)


def test_a_query_without_any_known_word_gives_the_first_ids() -> None:
    assert retrieve("zzz", load_insights(), 2) == load_insights()[:2]


def test_at_most_k_insights_come_back_and_none_from_an_empty_literature() -> None:
    assert len(retrieve("decay", load_insights(), 3)) == 3
    assert retrieve("decay", load_insights(), 0) == ()
    assert retrieve("decay", (), 3) == ()

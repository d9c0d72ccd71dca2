"""What a researcher had a part in is said in the report, by `show`, and not counted among the origins of ideas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from arch_search.analysis.by_hand import steered_by_hand, writing_of
from arch_search.analysis.provenance import provenance
from arch_search.analysis.report import render
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import SlotTry, Writing

Invent = Callable[..., Any]
BAN, PIN = "ban of family decay (request 1)", "parent 12ab pinned (request 2)"


def campaign(candidate_of: Invent, try_of: Invent, said: list[Writing | None]) -> ArchiveContents:
    reference = candidate_of("deltanet", arm="baseline", rung="copy", generation=0)
    programs = [candidate_of(f"p{slot}", slot=slot, parents=(reference.id,)) for slot in range(len(said))]
    tries: list[SlotTry] = [try_of(one, slot=slot) for slot, one in enumerate(programs)]
    told = [
        replace(tried, proposal=replace(tried.proposal, writing=writing))
        for tried, writing in zip(tries, said, strict=True)
    ]
    return ArchiveContents(candidates=(reference, *programs), tries=tuple(told))


def test_the_report_says_in_how_many_proposals_each_request_had_a_part(
    candidate_of: Invent, try_of: Invent, facts_of: Invent
) -> None:
    contents = campaign(candidate_of, try_of, [Writing(steering=(BAN, PIN)), Writing(steering=(BAN,)), Writing(), None])
    assert steered_by_hand(contents) == (
        f"Steered by hand: requests of a researcher had a part in 2 proposals ({BAN} in 2; {PIN} in 1)."
    )
    assert "requests of a researcher had a part in 2 proposals" in render(contents, facts=facts_of(contents))


def test_an_unsteered_campaign_says_nothing_of_it_and_many_requests_are_counted(
    candidate_of: Invent, try_of: Invent
) -> None:
    assert steered_by_hand(campaign(candidate_of, try_of, [Writing(), None])) == ""
    many = Writing(steering=tuple(f"ban of candidate {number} (request {number})" for number in range(20)))
    assert steered_by_hand(campaign(candidate_of, try_of, [many])).endswith("; and 8 more).")


def test_show_says_where_the_idea_comes_from_and_who_steered(candidate_of: Invent, try_of: Invent) -> None:
    said = Writing(
        idea="filter \x1b[2J keys", origin="literature", sources=("a", "b"), unfounded=("b",), steering=(BAN,)
    )
    contents = campaign(candidate_of, try_of, [said, None])
    lines = writing_of(contents, contents.candidates[1])
    assert lines[0].startswith("idea, from literature (a, b): filter ")
    assert "\x1b" not in lines[0]
    assert lines[1:] == ["named as a source, but not in the prompt: b", f"steered by hand: {BAN}"]
    assert writing_of(contents, contents.candidates[2]) == []


def test_a_random_change_that_was_steered_is_no_idea_of_unknown_origin(candidate_of: Invent, try_of: Invent) -> None:
    contents = campaign(candidate_of, try_of, [Writing(steering=(BAN,)), Writing(origin="hand", steering=(BAN,))])
    assert [row.origin for row in provenance(contents, (), confidence=0.95)] == ["hand"]

"""The ranking as a table for a terminal."""

from __future__ import annotations

import re

from arch_search.analysis.ranking import ranking_lines
from arch_search.analysis.statistics import standings
from arch_search.analysis.status_lines import COLUMNS

HOW = {"metric": "recall_accuracy", "confidence": 0.95}


def lines_of(contents):
    reference = contents.candidates[0].id
    return ranking_lines(standings(contents, reference_id=reference, **HOW), reference_id=reference, **HOW)


def test_every_program_has_a_line_with_its_interval_and_the_reference_has_none(invent):
    contents = invent()
    head, names, *rows = lines_of(contents)
    assert head == "recall accuracy; improvement over the reference in paired seeds, 95% intervals"
    assert names.split() == ["program", "seeds", "mean", "improvement", "verdict"]
    assert len(rows) == len(contents.candidates)
    (reference,) = [row for row in rows if row.endswith("reference")]
    measured = [row for row in rows if row != reference]
    assert sum(bool(re.search(r"[+−]\d\.\d{3} \[[+−]\d\.\d{3}, [+−]\d\.\d{3}\] ", row)) for row in measured) >= 10
    assert all(len(line) <= COLUMNS for line in (head, names, *rows))


def test_a_long_ranking_is_cut_and_the_reference_stays(invent):
    contents = invent(generations=5, slots=9, gain=0.2)
    rows = lines_of(contents)[2:]
    assert len(rows) < len(contents.candidates)
    assert rows[-1] == f"and {len(contents.candidates) - (len(rows) - 1)} more in the report"
    assert sum(row.endswith("reference") for row in rows) == 1


def test_there_is_no_table_before_anything_was_measured():
    assert ranking_lines((), reference_id="", **HOW) == []

"""Correct mixers of many kinds: none is refused, and none is said to leak."""

from __future__ import annotations

from pathlib import Path

import pytest
from zoo.examining import request_for
from zoo.honest import HEAD, LAYERS

from arch_search import domains, models
from arch_search.admission.child import examine
from arch_search.admission.request import ChildReport
from cognition_db.records import Verdict

SHIPPED = [
    *sorted((Path(models.__file__).parent / "baselines").glob("[a-z]*.py")),
    *sorted((Path(models.__file__).parent / "gallery").glob("[a-z]*.py")),
    Path(domains.__file__).parent / "linear_attention" / "seed_program.py",
]

QUICK = {"zero-padded spectral filter", "half precision inside"}


def examined(program: Path) -> ChildReport:
    request = request_for(exempt_cost=program.stem == "softmax_attention")
    return examine(program, request, report_to=lambda report: None)


def verdict_of(report: ChildReport, check: str) -> Verdict:
    return next(verdict for verdict in report.verdicts if verdict.check == check)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in LAYERS])
def test_an_honest_program_is_admitted_with_causality_passed(tmp_path: Path, name: str) -> None:
    program = tmp_path / f"{name.replace(' ', '_').replace(',', '')}.py"
    program.write_text(HEAD + LAYERS[name])

    report = examined(program)

    assert [verdict for verdict in report.verdicts if verdict.refuses] == []
    assert verdict_of(report, "causality").outcome == "passed"
    marked = verdict_of(report, "operator_growth").outcome == "failed"
    assert marked == (name in ("loop over tokens", "recurrent unit"))


@pytest.mark.slow
@pytest.mark.parametrize("program", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_program_is_admitted_without_a_mark(program: Path) -> None:
    report = examined(program)

    marks = [verdict.check for verdict in report.verdicts if verdict.outcome != "passed"]
    assert marks == (["cost"] if program.stem == "softmax_attention" else [])
    assert report.parameter_count > 0
    assert len(report.fingerprint) == 64

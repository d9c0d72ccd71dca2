"""Planted leaks, cheats and faults: each is refused, and by the check that is meant to see it."""

from __future__ import annotations

from pathlib import Path

import pytest
from zoo.examining import request_for
from zoo.faults import FAULTS
from zoo.programs import MIXER

from arch_search.admission.child import examine
from arch_search.admission.request import ChildReport
from cognition_db.records import Verdict

# seen by checks that come after a second or more of others
SLOW = {name for name, (check, _, _) in FAULTS.items() if check in ("batch_rows", "cost")} - {"mean over the batch"}


def examined(folder: Path, *, init: str = "", body: str = "") -> ChildReport:
    indent = "\n        "
    text = MIXER.format(top="", init=indent.join(init.splitlines()), body=indent.join(body.splitlines()))
    program = folder / f"{folder.name}.py"
    program.write_text(text)
    return examine(program, request_for(), report_to=lambda report: None)


def refusals(report: ChildReport) -> list[Verdict]:
    return [verdict for verdict in report.verdicts if verdict.refuses]


def test_the_program_without_a_fault_is_admitted(tmp_path: Path) -> None:
    assert refusals(examined(tmp_path)) == []


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in FAULTS])
def test_a_planted_fault_is_refused_by_the_check_meant_for_it(tmp_path: Path, name: str) -> None:
    check, init, body = FAULTS[name]

    refused = refusals(examined(tmp_path, init=init, body=body))

    assert [verdict.check for verdict in refused] == [check]


def test_a_witness_names_the_input_that_moves_an_earlier_output(tmp_path: Path) -> None:
    (refused,) = refusals(examined(tmp_path, body="y = y + 1e-3 * F.pad(x, (0, 0, 0, 5))[:, 5:]"))

    evidence = refused.evidence
    assert evidence["input_position"] == evidence["output_position"] + 5
    assert 1e-5 < evidence["amount"] < 1e-2


def test_an_error_of_the_program_is_told_with_its_line(tmp_path: Path) -> None:
    (refused,) = refusals(examined(tmp_path, body="y = y @ self.q.weight[:3]"))

    assert refused.reason.startswith("RuntimeError: ")
    assert "y = y @ self.q.weight[:3]" in refused.reason
    assert "line 20" in refused.reason


def test_reading_the_length_is_marked_and_not_refused(tmp_path: Path) -> None:
    report = examined(tmp_path, body="y = y * math.log(T + 1)")

    marked = next(verdict for verdict in report.verdicts if verdict.check == "length_dependence")
    assert (marked.outcome, refusals(report)) == ("failed", [])


def test_parameters_without_gradient_are_marked_by_name(tmp_path: Path) -> None:
    report = examined(tmp_path, init="self.spare = nn.Linear(d_model, 3)")

    marked = next(verdict for verdict in report.verdicts if verdict.check == "unused_parameters")
    assert marked.outcome == "failed"
    assert "spare.weight" in marked.reason
    assert refusals(report) == []


def test_overflow_under_a_huge_future_leaves_causality_undecided(tmp_path: Path) -> None:
    report = examined(tmp_path, body="y = torch.cumsum(torch.exp(torch.exp(x.clamp(max=12))), 1) * 0 + y")

    verdict = next(verdict for verdict in report.verdicts if verdict.check == "causality")
    assert (verdict.outcome, refusals(report)) == ("unknown", [])

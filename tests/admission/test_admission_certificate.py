"""The certificate: proofs for correct mixers, witnesses for leaks, a line to blame for what stays unknown."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from certificate_programs import PROGRAM, PROVED, UNKNOWN
from zoo.faults import FAULTS
from zoo.programs import MIXER

from arch_search.admission.certificate.certify import check_certificate
from arch_search.admission.subject import Subject
from arch_search.models.loading import load_mixer_class
from cognition_db.records import Verdict

FAULTY = MIXER.replace("{top}", "")
TOLERANCE = 1e-9
T = 130
LEAKS = [name for name, (check, _, _) in FAULTS.items() if check == "causality"]
INDENT = "\n        "


def write(folder: Path, template: str, init: str, body: str) -> Path:
    program = folder / f"{folder.name}.py"
    program.write_text(template.format(init=INDENT.join(init.splitlines()), body=INDENT.join(body.splitlines())))
    return program


def certificate(program: Path, *lengths: int) -> Verdict:
    torch.set_num_threads(1)
    subject = Subject(mixer=load_mixer_class(program, None), d_model=32, n_heads=2)
    (verdict,) = check_certificate(subject, lengths or (T,), TOLERANCE)
    return verdict


@pytest.mark.parametrize("name", PROVED)
def test_a_correct_mixer_is_proved_at_the_length_that_was_traced(tmp_path: Path, name: str) -> None:
    verdict = certificate(write(tmp_path, PROGRAM, *PROVED[name]))

    assert (verdict.check, verdict.outcome, verdict.reason) == (
        "certificate",
        "passed",
        f"proved at T = {T}; train and eval",
    )


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_correct_mixer_out_of_reach_is_only_marked_with_the_line_to_blame(tmp_path: Path, name: str) -> None:
    program = write(tmp_path, PROGRAM, *UNKNOWN[name])
    blamed = next(
        number
        for number, line in enumerate(program.read_text().splitlines(), 1)
        if "gather" in line or "self.ent" in line
    )

    verdict = certificate(program)

    assert (verdict.outcome, verdict.refuses) == ("unknown", False)
    assert f"line {blamed}" in verdict.reason


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_refuted_by_a_witness(tmp_path: Path, name: str) -> None:
    _, init, body = FAULTS[name]

    verdict = certificate(write(tmp_path, FAULTY, init, body), 256 if "256" in name else T)

    assert (verdict.check, verdict.outcome, verdict.refuses) == ("causality", "failed", True)
    assert verdict.evidence["input_position"] > verdict.evidence["output_position"]


@pytest.mark.parametrize(
    "body",
    [
        "y = y + (x.abs().amax(1, keepdim=True) > 500).to(x.dtype)",
        "y = y + 1e-13 * x.mean(1, keepdim=True)",
        "y = y + torch.sigmoid(1000 * (x.abs().mean(1, keepdim=True) - 50))",
    ],
    ids=["a trigger never met", "below every tolerance", "saturated"],
)
def test_a_leak_that_no_experiment_moves_is_never_proved(tmp_path: Path, body: str) -> None:
    assert certificate(write(tmp_path, FAULTY, "", body)).outcome == "unknown"


def test_a_leak_beside_an_empty_reduction_is_refuted(tmp_path: Path) -> None:
    body = (
        "before = v[:, :, :0]\n"
        "after = (before.sum(2, keepdim=True) + v.mean(2, keepdim=True)).expand_as(v)\n"
        "y = (q + after).transpose(1, 2).reshape(B, T, D)\n"
    )
    assert certificate(write(tmp_path, PROGRAM, "", body)).check == "causality"


def test_a_leak_at_other_lengths_is_named_by_its_length(tmp_path: Path) -> None:
    body = "y = y + x.mean(1, keepdim=True) if T % 256 == 0 else y"
    program = write(tmp_path, FAULTY, "", body)

    assert certificate(program).reason == f"proved at T = {T}; train and eval"
    assert "T = 256" in certificate(program, T, 256).reason


@pytest.mark.parametrize("body", ["y = y + x.mean(0, keepdim=True)", "y = y + 0.01 * x[:1]"])
def test_rows_that_mix_are_not_proved(tmp_path: Path, body: str) -> None:
    verdict = certificate(write(tmp_path, FAULTY, "", body))

    assert verdict.outcome == "unknown"
    assert "batch rows may mix" in verdict.reason


@pytest.mark.parametrize("name", ["memory of the last call", "running mean in a buffer"])
def test_what_an_earlier_call_left_is_not_proved(tmp_path: Path, name: str) -> None:
    _, init, body = FAULTS[name]

    assert certificate(write(tmp_path, FAULTY, init, body)).outcome == "unknown"


def test_a_proof_names_what_it_assumes(tmp_path: Path) -> None:
    verdict = certificate(write(tmp_path, PROGRAM, *PROVED["attention with a buffer of -1e9 added"]))

    assert verdict.evidence["assumed"] == ["a score with a large negative number added underflows"]


def test_a_row_masked_everywhere_by_a_finite_number_is_no_mask(tmp_path: Path) -> None:
    body = "s = (q @ k.mT).masked_fill(~past.tril(-1), -1e9).softmax(-1)\ny = (s @ v).transpose(1, 2).reshape(B, T, D)"

    verdict = certificate(write(tmp_path, PROGRAM, "", body))

    assert (verdict.check, verdict.outcome) == ("causality", "failed")
    assert verdict.evidence["output_position"] == 0

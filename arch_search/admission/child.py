"""The checking child: `python -m arch_search.admission.child FOLDER`, inside a jail.

Reads the request and the program, writes the report anew before every check, cheap checks first, and stops at the
first verdict that refuses. The program runs in this process, so the report is the word of an untrusted process: the
runner reads it as such.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from arch_search.admission.basics import check_gradients, check_outputs, check_parameters, check_stage
from arch_search.admission.behaviour import fingerprint
from arch_search.admission.causality import check_as_trained, check_causality, check_rows
from arch_search.admission.certificate.certify import check_certificate
from arch_search.admission.cost import check_cost
from arch_search.admission.framework import UNTOUCHED, Framework
from arch_search.admission.request import PROGRAM_FILE, REPORT_FILE, REQUEST_FILE, ChildReport, Request, printable
from arch_search.admission.state import check_hidden, check_memory
from arch_search.admission.subject import MAX_TRAINED_ELEMENTS, Subject, affordable_length
from arch_search.models.loading import load_mixer_class
from arch_search.models.mounting import mixer_beside
from arch_search.models.stand_in import install
from cognition_db.records import Verdict, from_json, to_json

_MAX_PRINTED = 65_536
_PERIODIC_LEAK_LENGTH = 256


class PrintedTooMuch(Exception):
    """The program printed more than a log can hold; raised into the program's own print."""


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    install()
    request = from_json(Request, json.loads((folder / REQUEST_FILE).read_text()))
    examine(folder / PROGRAM_FILE, request, report_to=lambda report: _write(folder / REPORT_FILE, report))
    return 0


def examine(program: Path, request: Request, *, report_to: Callable[[ChildReport], None]) -> ChildReport:
    """Every check on the program in its file, up to the first that refuses; `report_to` hears of each step.

    For programs of the published contract, call `install` of models.stand_in before: it changes the whole process.
    """
    exam = _Exam(program=program, request=request, report_to=report_to)
    with _counted_output(), exam.framework.watching(program):
        for name, check in exam.steps():
            exam.run(name, check)
            if any(verdict.refuses for verdict in exam.verdicts):
                break
        else:
            exam.verdicts.append(UNTOUCHED)
    return exam.report(complete=True, doing="")


class _Exam:
    def __init__(self, *, program: Path, request: Request, report_to: Callable[[ChildReport], None]) -> None:
        self._program = program
        self._request = request
        self._report_to = report_to
        self._mixer: type[nn.Module] = nn.Module
        self._parameter_count = 0
        self._fingerprint: tuple[float, ...] = ()
        mixer_beside(request.contract)  # before the framework is looked at, as part of it
        self.framework = Framework()
        self.verdicts: list[Verdict] = []

    def steps(self) -> Iterator[tuple[str, Callable[[], tuple[Verdict, ...]]]]:
        settings, stage = self._request.settings, self._request.stage
        lengths = sorted({*settings.lengths, stage.seq_len, _PERIODIC_LEAK_LENGTH})
        few = sorted({settings.lengths[len(settings.lengths) // 2], max(settings.lengths)})
        yield "contract", self._load
        subject = Subject(mixer=self._mixer, d_model=settings.d_model, n_heads=settings.n_heads)
        yield "outputs", lambda: check_outputs(subject, lengths)
        yield "gradients", lambda: check_gradients(subject, few)
        yield "hidden_parameters", lambda: check_hidden(subject)
        yield "state_between_calls", lambda: check_memory(subject, sys.modules.get(self._mixer.__module__))
        yield "stage", lambda: check_stage(self._mixer, self._request)
        traced = sorted({*few, stage.seq_len, _PERIODIC_LEAK_LENGTH})
        yield "certificate", lambda: self._certify(subject, traced)
        yield "causality", lambda: check_causality(subject, self._untraced(lengths, traced), settings.tolerance)
        yield "as_trained", self._check_as_trained
        yield "batch_rows", lambda: check_rows(subject, few, settings.tolerance)
        yield (
            "cost",
            lambda: check_cost(subject, max_exponent=settings.max_cost_exponent, exempt=self._request.exempt_cost),
        )
        yield "parameters", self._count_parameters
        yield "fingerprint", lambda: self._take_fingerprint(subject)

    def run(self, name: str, check: Callable[[], tuple[Verdict, ...]]) -> None:
        self._report_to(self.report(complete=False, doing=name))
        try:
            self.verdicts += check()
        except PrintedTooMuch as error:
            self._refuse("output_volume", str(error))
        # the program may raise anything, SystemExit included; it belongs to the candidate
        except BaseException as error:
            self._refuse(name, self._told(error))
        touched = self.framework.verdict(name)
        if touched is not None:
            self.verdicts.append(touched)
        self._report_to(self.report(complete=False, doing=name))

    def report(self, *, complete: bool, doing: str) -> ChildReport:
        report = ChildReport(
            complete=complete,
            doing=doing,
            verdicts=tuple(self.verdicts),
            class_name=printable(self._mixer.__name__) if self._mixer is not nn.Module else "",
            parameter_count=self._parameter_count,
            fingerprint=self._fingerprint,
        )
        if complete:
            self._report_to(report)
        return report

    def _untraced(self, lengths: Sequence[int], traced: Sequence[int]) -> list[int]:
        """Lengths for the experiments: all, or after a proof those it left out and the longest, which guards it."""
        proved = any(one.check == "certificate" and one.outcome == "passed" for one in self.verdicts)
        return sorted({*lengths} - {*traced} | {max(lengths)}) if proved else list(lengths)

    def _load(self) -> tuple[Verdict, ...]:
        self._mixer = load_mixer_class(
            self._program, self._request.class_name, default_class=self._request.contract.class_name
        )
        return (Verdict(check="contract", outcome="passed", reason=f"uses {self._mixer.__name__}"),)

    def _certify(self, subject: Subject, traced: Sequence[int]) -> tuple[Verdict, ...]:
        """The program has run at these lengths before, so an error here is the tracker's: it decides nothing."""
        try:
            return check_certificate(subject, traced, self._request.settings.tolerance)
        except Exception as error:
            reason = f"the tracker does not follow: {self._told(error)}"
            return (Verdict(check="certificate", outcome="unknown", reason=reason[:500]),)

    def _check_as_trained(self) -> tuple[Verdict, ...]:
        stage = self._request.stage
        last = Subject(
            mixer=self._mixer, d_model=stage.d_model, n_heads=stage.n_heads, layer_idx=max(1, stage.n_layers - 1)
        )
        T = affordable_length(stage.seq_len, stage.d_model)
        B = max(1, min(stage.batch_size, MAX_TRAINED_ELEMENTS // (stage.d_model * T)))
        return check_as_trained(last, B, T, self._request.settings.tolerance)

    def _count_parameters(self) -> tuple[Verdict, ...]:
        self._parameter_count, verdict = check_parameters(self._mixer, self._request)
        return (verdict,)

    def _take_fingerprint(self, subject: Subject) -> tuple[Verdict, ...]:
        """Never refuses: a program that cannot run in float64 merely has no fingerprint."""
        try:
            self._fingerprint = fingerprint(subject)
            reason = "" if self._fingerprint else "the output with equalised weights is not finite or all zero"
        except (RuntimeError, TypeError, ValueError) as error:
            reason = f"does not run with equalised weights in float64: {type(error).__name__}"
        if reason:
            return (Verdict(check="fingerprint", outcome="unknown", reason=reason),)
        return (Verdict(check="fingerprint", outcome="passed", reason="taken"),)

    def _refuse(self, check: str, reason: str) -> None:
        self.verdicts.append(Verdict(check=check, outcome="failed", reason=reason[:500], refuses=True))

    def _told(self, error: BaseException) -> str:
        """Type and message in one line, with the last line of the program on the way there."""
        try:
            message = printable(" ".join(str(error)[:1000].split()))[:300]
        # the text of an exception is the program's code as well
        except BaseException:
            message = "its text cannot be had"
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(self._program)]
        place = f" (line {lines[-1].lineno}: {(lines[-1].line or '')[:100]})" if lines else ""
        name = printable(type(error).__name__)
        return f"{name}: {message}{place}" if message else f"{name}{place}"


class _Counting(io.TextIOBase):
    """A text stream that passes the beginning on and ends the program once it has printed too much."""

    def __init__(self, target: io.TextIOBase) -> None:
        self._target = target
        self._printed = 0

    def write(self, text: str) -> int:
        self._printed += len(text)
        if self._printed > _MAX_PRINTED:
            raise PrintedTooMuch(f"printed more than {_MAX_PRINTED} characters while it was checked; remove the print")
        return self._target.write(text)

    def flush(self) -> None:
        self._target.flush()


@contextmanager
def _counted_output() -> Iterator[None]:
    outer = sys.stdout
    sys.stdout = _Counting(outer)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.stdout = outer


def _write(path: Path, report: ChildReport) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(to_json(report)))
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""Admitting a program, from the driver's side: a checking child in a jail, and a sceptical reading of its report."""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from arch_search.admission.request import (
    BYTE_VOCAB,
    FINGERPRINT_LENGTH,
    MAX_REPORT_BYTES,
    PROGRAM_FILE,
    REPORT_FILE,
    REQUEST_FILE,
    ChildReport,
    PieceReport,
    PieceRequest,
    PieceSeen,
    Request,
)
from arch_search.config import Admission, Jail, Stage
from arch_search.contract import Contract
from arch_search.errors import JailError
from arch_search.jail import JailResult, Limits, jailed_python, read_from_jail, run_jailed
from cognition_db.records import Verdict, from_json, to_json

_Report = TypeVar("_Report", ChildReport, PieceReport)
_PROCESSES = 64
_FILE_MB = 16
# other work may hold the cores; CPU time is the limit that means something
_WALL_FACTOR = 3
_CHECKS = frozenset(
    {
        "contract",
        "outputs",
        "gradients",
        "hidden_parameters",
        "state_between_calls",
        "seeding",
        "stage",
        "certificate",
        "causality",
        "as_trained",
        "batch_rows",
        "cost",
        "parameters",
        "fingerprint",
        "framework",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionReport:
    """The program is admitted unless a verdict refuses. `rung` names the jail that the checks ran in."""

    verdicts: tuple[Verdict, ...]
    class_name: str
    parameter_count: int
    fingerprint: tuple[float, ...]
    seconds: float
    rung: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionOrder:
    """All that one admission depends on, as a value that can be sent to another node.

    `class_name` is the module to use, empty for that of the contract or the only public module. `target_parameters` are
    those of the reference model at `stage`, None where this program is the reference. With `exempt_cost` fast-growing
    cost is only marked. `known_fingerprints` are of earlier programs, by candidate id; where `own_rung` says that a
    rung of ours wrote the program, the behaviour of an earlier one is refused.
    """

    program: str
    class_name: str
    contract: Contract
    settings: Admission
    stage: Stage
    target_parameters: int | None
    exempt_cost: bool
    jail: Jail
    known_fingerprints: dict[str, tuple[float, ...]]
    own_rung: bool
    vocab: int = BYTE_VOCAB


def admit(order: AdmissionOrder, *, workdir: Path, python: str = sys.executable) -> AdmissionReport:
    """Checks one program in a child process; whatever the program does, the answer is a report.

    `workdir` is made if need be; the checks use a folder of their own in it and remove it.

    Raises:
        JailError: there is no jail here, or the checking child cannot run whatever the program is.
    """
    request = Request(
        class_name=order.class_name or None,
        contract=order.contract,
        settings=order.settings,
        stage=order.stage,
        target_parameters=order.target_parameters,
        exempt_cost=order.exempt_cost,
        vocab=order.vocab,
    )
    report, result = _examined(order.program, request, jail=order.jail, workdir=workdir, python=python)
    verdicts, report = _judged(report, result)
    fingerprint = _usable(report.fingerprint)
    if fingerprint and not any(verdict.refuses for verdict in verdicts):
        verdicts += (
            same_behaviour(
                fingerprint,
                order.known_fingerprints,
                distance=order.settings.duplicate_distance,
                own_rung=order.own_rung,
            ),
        )
    return AdmissionReport(
        verdicts=verdicts,
        class_name=report.class_name or order.class_name,
        parameter_count=report.parameter_count,
        fingerprint=fingerprint,
        seconds=result.wall_s,
        rung=result.rung,
    )


def watch_pieces(
    program: str, request: PieceRequest, *, settings: Admission, jail: Jail, workdir: Path, python: str = sys.executable
) -> tuple[PieceSeen, ...]:
    """What was seen of each function of the request at work; of all nothing where the child left no usable answer."""
    with _in_jail("pieces", program, request, settings=settings, jail=jail, workdir=workdir, python=python) as (
        folder,
        _,
    ):
        report = _read(PieceReport, folder)
    seen = report.seen if report else ()
    known = {"", "v", *request.calls}
    sound = all(math.isfinite(one.distance) and one.nearest in known for one in seen)
    return seen if sound and len(seen) == len(request.places) else (PieceSeen(),) * len(request.places)


def _examined(
    program: str, request: Request, *, jail: Jail, workdir: Path, python: str
) -> tuple[ChildReport | None, JailResult]:
    """What the child reported, None where nothing readable is left, and how it ended."""
    settings = request.settings
    with _in_jail("child", program, request, settings=settings, jail=jail, workdir=workdir, python=python) as (
        folder,
        result,
    ):
        report = _read(ChildReport, folder)
        if report is None and result.ended == "exited":
            _ensure_child_works(folder, settings=settings, jail=jail, python=python)
    return report and report.printable(), result


@contextmanager
def _in_jail(
    child: str,
    program: str,
    request: Request | PieceRequest,
    *,
    settings: Admission,
    jail: Jail,
    workdir: Path,
    python: str,
) -> Iterator[tuple[Path, JailResult]]:
    """The folder in which a module of this room has worked on the program, and how it ended."""
    workdir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="admit-", dir=workdir))
    try:
        (folder / PROGRAM_FILE).write_text(program)
        (folder / REQUEST_FILE).write_text(json.dumps(to_json(request)))
        command = ["-m", f"arch_search.admission.{child}", str(folder.resolve())]
        result = _run(command, folder=folder, settings=settings, jail=jail, python=python)
        if result.is_killed_from_outside:  # once: it says nothing of the program
            result = _run(command, folder=folder, settings=settings, jail=jail, python=python)
        yield folder, result
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str], *, folder: Path, settings: Admission, jail: Jail, python: str) -> JailResult:
    inside = jailed_python(folder, python=python)
    limits = Limits(
        wall_s=_WALL_FACTOR * settings.limit_s,
        cpu_s=settings.limit_s,
        memory_gb=settings.memory_gb,
        file_mb=_FILE_MB,
        processes=_PROCESSES,
    )
    return run_jailed(
        # -P: a file that the program writes into its folder must not pass for a library
        [python, "-P", *command],
        workdir=folder,
        readable=inside.readable,
        limits=limits,
        environment=inside.environment,
        rung=jail.rung,
    )


def _read(form: type[_Report], folder: Path) -> _Report | None:
    """The report where there is one that keeps the form; its content is still only a claim."""
    try:
        data = json.loads(read_from_jail(folder, REPORT_FILE, max_bytes=MAX_REPORT_BYTES))
        return from_json(form, data)
    except (JailError, ValueError, RecursionError):
        return None


def _ensure_child_works(folder: Path, *, settings: Admission, jail: Jail, python: str) -> None:
    """Tells a program that removed its report from an installation in which no report can be written."""
    result = _run(
        ["-c", "import arch_search.admission.child"], folder=folder, settings=settings, jail=jail, python=python
    )
    if result.ended == "exited" and result.exit_code != 0:
        raise JailError(f"the checking child does not start under {result.rung}: {_last_line(result)}")


def _judged(report: ChildReport | None, result: JailResult) -> tuple[tuple[Verdict, ...], ChildReport]:
    """The verdicts to keep: the report's, and one that refuses where the child did not come to its end."""
    if report is None:
        report = ChildReport(complete=False, doing="start", verdicts=())
    refused = any(verdict.refuses for verdict in report.verdicts)
    if result.ended == "exited" and result.exit_code == 0 and report.complete:
        missing = _CHECKS - {verdict.check for verdict in report.verdicts}
        if refused or not missing:
            return report.verdicts, report
        unfinished = _refusal("report", f"the report lacks {', '.join(sorted(missing))}; the program tampered with it")
    elif refused:
        return report.verdicts, report
    else:
        unfinished = _ending(report.doing, result)
    return (*report.verdicts, unfinished), report


def _ending(doing: str, result: JailResult) -> Verdict:
    during = f"while checking {doing[:40]}"
    if result.ended == "timed_out":
        return _refusal("time", f"{result.reason}, {during}")
    if result.ended == "out_of_memory":
        return _refusal("memory", f"{result.reason}, {during}")
    if result.ended == "stopped":
        return _refusal("processes", f"{result.reason}, {during}")
    if result.ended == "signalled":
        return _refusal("crash", f"{result.reason}, {during}")
    said = _last_line(result)
    return _refusal("crash", f"left with exit code {result.exit_code} {during}" + (f": {said}" if said else ""))


def _last_line(result: JailResult) -> str:
    lines = result.stderr_tail.strip().splitlines()
    return lines[-1][:300] if lines else ""


def _usable(fingerprint: tuple[float, ...]) -> tuple[float, ...]:
    sound = len(fingerprint) == FINGERPRINT_LENGTH and all(math.isfinite(value) for value in fingerprint)
    return fingerprint if sound else ()


def same_behaviour(
    fingerprint: tuple[float, ...], known: Mapping[str, tuple[float, ...]], *, distance: float, own_rung: bool
) -> Verdict:
    """Whether an earlier program behaves alike: with equal weights, less than `distance` of the output's size apart."""
    distances = {twin: math.dist(fingerprint, other) for twin, other in known.items() if len(other) == len(fingerprint)}
    twin = min(distances, key=distances.__getitem__, default="")
    if not twin:
        return Verdict(check="duplicate_behaviour", outcome="passed", reason="no earlier program to compare with")
    apart = distances[twin]
    if apart >= distance:
        reason = f"nearest earlier program is {twin}, at {apart:.2g}"
        return Verdict(check="duplicate_behaviour", outcome="passed", reason=reason)
    reason = f"same behaviour as {twin}: with equal weights the outputs differ by {apart:.1g} of their size"
    return Verdict(
        check="duplicate_behaviour",
        outcome="failed",
        reason=reason,
        refuses=own_rung,
        evidence={"candidate_id": twin, "distance": apart},
    )


def _refusal(check: str, reason: str) -> Verdict:
    return Verdict(check=check, outcome="failed", reason=reason, refuses=True)

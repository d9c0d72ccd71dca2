"""`arch-search check`: every admission check on one program of yours."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from arch_search.admission import runner, static
from arch_search.admission.request import BYTE_VOCAB, Request
from arch_search.config import Config
from arch_search.domains import domain_named
from arch_search.errors import ConfigError
from arch_search.proposals.fingerprint import normal_form_or_empty
from arch_search.settings import load_config
from cognition_db.records import Verdict, to_json


def run(options: argparse.Namespace) -> int:
    config = load_config(options.overrides)
    file = Path(options.file)
    program = read_program(file, config.admission.max_program_bytes)
    if isinstance(program, Verdict):
        verdicts: tuple[Verdict, ...] = (program,)
    else:
        verdicts = _checked(program, options.class_name or "", config)
    refused = any(verdict.refuses for verdict in verdicts)
    if options.json:
        print(
            json.dumps(
                {"file": str(file), "refused": refused, "verdicts": [to_json(one) for one in verdicts]}, indent=1
            )
        )
    else:
        _print(file, verdicts, refused)
    return 1 if refused else 0


def read_program(file: Path, max_bytes: int) -> str | Verdict:
    """The text of a file, or why it is no program; of a huge one only the beginning is read.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    expected = "give a Python file with a torch.nn.Module"
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "is not a regular file" if file.exists() else "no such file"
        raise ConfigError(f"{file}: {what}; {expected}")
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); {expected}") from None
    if len(data) > max_bytes:
        return _no_program(f"the file has {size} bytes; at most {max_bytes} are read (admission.max_program_bytes)")
    if b"\0" in data:
        return _no_program(f"not text: byte {data.index(0) + 1} is zero; {expected}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return _no_program(f"line {line}: byte {error.start + 1} is not UTF-8; {expected}")


def _no_program(reason: str) -> Verdict:
    return Verdict(check="syntax", outcome="failed", reason=reason, refuses=True)


def _checked(program: str, class_name: str, config: Config) -> tuple[Verdict, ...]:
    contract = domain_named(config.domain.name).contract
    verdicts = static.check_program(
        program,
        class_name=class_name,
        default_class=contract.class_name,
        normal_form=normal_form_or_empty(program),
        settings=config.admission,
        known={},
        own_rung=False,
    )
    if any(verdict.refuses for verdict in verdicts):
        return verdicts
    with tempfile.TemporaryDirectory(prefix="arch-search-check-") as workdir:
        order = runner.AdmissionOrder(
            program=program,
            class_name=class_name,
            contract=contract,
            settings=config.admission,
            stage=config.stage,
            target_parameters=_reference_parameters(config, Path(workdir)),
            exempt_cost=False,
            jail=config.jail,
            known_fingerprints={},
            own_rung=False,
        )
        return verdicts + runner.admit(order, workdir=Path(workdir)).verdicts


def _reference_parameters(config: Config, workdir: Path) -> int:
    """Parameters of the reference model at the stage; that program is ours, so it is counted here, without a jail."""
    # torch takes a second to import, which a refusal by the text alone need not wait for
    from arch_search.admission.basics import check_parameters
    from arch_search.models.loading import load_mixer_class

    domain = domain_named(config.domain.name)
    file = workdir / "reference.py"
    file.write_text(domain.seed_program)
    request = Request(
        class_name=domain.contract.class_name,
        contract=domain.contract,
        settings=config.admission,
        stage=config.stage,
        target_parameters=None,
        exempt_cost=False,
        vocab=BYTE_VOCAB,
    )
    return check_parameters(load_mixer_class(file, request.class_name), request)[0]


def _print(file: Path, verdicts: tuple[Verdict, ...], refused: bool) -> None:
    table = Table("check", "verdict", "reason", box=None, pad_edge=False)
    for verdict in verdicts:
        word = "REFUSED" if verdict.refuses else "passed" if verdict.outcome == "passed" else "marked"
        table.add_row(verdict.check, word, verdict.reason)
    console = Console(markup=False, highlight=False)
    console.print(table)
    console.print(f"{file}: {_why(verdicts) if refused else 'admitted'}", soft_wrap=True)


def _why(verdicts: tuple[Verdict, ...]) -> str:
    """The first refusal in one line, with what is expected where the reason only says what was found."""
    first = next(verdict for verdict in verdicts if verdict.refuses)
    expected = ""
    if first.check == "syntax" and first.reason.startswith("line "):
        expected = f"; programs are read as Python {sys.version_info.major}.{sys.version_info.minor}"
    elif first.reason.startswith("ModuleNotFoundError"):
        expected = "; import torch, einops, fla, or what is installed beside arch_search"
    elif "name one of them" in first.reason:
        expected = " by --class"
    return f"refused by {first.check}: {first.reason}{expected}"

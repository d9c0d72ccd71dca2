"""`arch-search check`: every admission check on one program of yours."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from arch_search.admission import runner, static
from arch_search.admission.runner import AdmissionReport
from arch_search.config import Config
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.errors import ConfigError
from arch_search.proposals.fingerprint import normal_form_or_empty
from arch_search.settings import load_config
from cognition_db.records import Verdict, to_json


def run(options: argparse.Namespace) -> int:
    config = load_config(options.overrides)
    file = Path(options.file)
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; give a Python file with a torch.nn.Module")
    program = file.read_text(errors="replace")
    verdicts = static.check_program(
        program,
        class_name=options.class_name or "",
        normal_form=normal_form_or_empty(program),
        settings=config.admission,
        known={},
        own_rung=False,
    )
    if not any(verdict.refuses for verdict in verdicts):
        with tempfile.TemporaryDirectory(prefix="arch-search-check-") as workdir:
            reference = _admit(SEED_PROGRAM, "DeltaNet", None, config, Path(workdir))
            target = reference.parameter_count
            verdicts += _admit(program, options.class_name or "", target, config, Path(workdir)).verdicts
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


def _admit(program: str, class_name: str, target: int | None, config: Config, workdir: Path) -> AdmissionReport:
    order = runner.AdmissionOrder(
        program=program,
        class_name=class_name,
        settings=config.admission,
        stage=config.stage,
        target_parameters=target,
        exempt_cost=False,
        jail=config.jail,
        known_fingerprints={},
        own_rung=False,
    )
    return runner.admit(order, workdir=workdir)


def _print(file: Path, verdicts: tuple[Verdict, ...], refused: bool) -> None:
    table = Table("check", "verdict", "reason", box=None, pad_edge=False)
    for verdict in verdicts:
        word = "REFUSED" if verdict.refuses else "passed" if verdict.outcome == "passed" else "marked"
        table.add_row(verdict.check, word, verdict.reason)
    console = Console(markup=False, highlight=False)
    console.print(table)
    console.print(f"{file}: {'refused' if refused else 'admitted'}")

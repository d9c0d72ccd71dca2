"""Examines programs as `arch-search check` does, each in a fork of one process that has torch, and prints JSON.

`python run_published.py [--without-text-checks] FILE[::CLASS] ...`: a line for each, with its CPU seconds.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from zoo.examining import request_for

from arch_search.admission.child import examine
from arch_search.admission.static import check_program
from arch_search.models.stand_in import install
from arch_search.settings import load_config
from cognition_db.records import to_json


def examined(file: Path, class_name: str, *, text_checks: bool) -> list[dict[str, Any]]:
    config = load_config([])
    verdicts = []
    if text_checks:
        verdicts += check_program(
            file.read_text(),
            class_name=class_name,
            default_class="DeltaNet",
            normal_form="",
            settings=config.admission,
            known={},
            own_rung=False,
        )
    verdicts += examine(file, request_for(class_name or None), report_to=lambda report: None).verdicts
    return [to_json(verdict) for verdict in verdicts]


def in_a_fork(file: Path, class_name: str, *, text_checks: bool, folder: Path) -> dict[str, Any]:
    answer = folder / f"{file.stem}.json"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            answer.write_text(json.dumps(examined(file, class_name, text_checks=text_checks)))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    verdicts = json.loads(answer.read_text()) if status == 0 else None
    return {"name": file.stem, "cpu_s": usage.ru_utime + usage.ru_stime, "status": status, "verdicts": verdicts}


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    install()
    text_checks = "--without-text-checks" not in arguments
    with tempfile.TemporaryDirectory() as folder:
        for argument in arguments:
            if not argument.startswith("--"):
                file, _, class_name = argument.partition("::")
                found = in_a_fork(Path(file), class_name, text_checks=text_checks, folder=Path(folder))
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

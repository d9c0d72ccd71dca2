"""`python -m arch_search.admission FOLDER INDEX`: one admission as a work unit, for admission.where=job."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from arch_search.admission.runner import AdmissionOrder, admit
from arch_search.errors import ArchSearchError
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.records import from_json, to_json

FAILED, WRONG_USE = 1, 2


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or not arguments[1].isdigit():
        print("usage: python -m arch_search.admission FOLDER INDEX", file=sys.stderr)
        return WRONG_USE
    folder, index = Path(arguments[0]), int(arguments[1])
    try:
        order = from_json(AdmissionOrder, read_json(order_file(folder, index)))
        report = admit(order, workdir=folder / f"{index}")
        write_atomic(report_file(folder, index), json.dumps(to_json(report)).encode())
    except (ArchSearchError, StoreError) as error:
        print(f"admission: {error}", file=sys.stderr)
        return FAILED
    return 0


def order_file(folder: Path, index: int) -> Path:
    return folder / f"{index}.order.json"


def report_file(folder: Path, index: int) -> Path:
    return folder / f"{index}.report.json"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Kernels and training on a GPU against eager, torch.compile, other libraries and the floor; ratios of one run.

Run: make bench-gpu [ROW=name]
     python3 tests/benchmarks/bench_gpu.py [name]      where there is only Python with torch and triton

Needs nobody and at most ten minutes: every file of rows runs in a process of its own with a share of the time. Prints a
table and writes it to results/gpu-<device>-<date>.md. Exit code 1 where a row is wrong, fails or runs out of time, 2
where there is no GPU.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from tests.benchmarks import gpu_table
from tests.benchmarks.gpu_rows import KernelRow, Line, Row

HERE = Path(__file__).resolve().parent
ROOT, RESULTS = HERE.parents[1], HERE / "results"
TOTAL_S = 570.0


def main(arguments: Sequence[str]) -> int:
    names = row_names()
    wanted = list(arguments) or names
    if unknown := [name for name in wanted if name not in names]:
        print(f"bench-gpu: no row {', '.join(unknown)}; there are: {', '.join(names)}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("bench-gpu: torch finds no GPU on this machine; nothing is measured", file=sys.stderr)
        return 2
    device, now = torch.cuda.get_device_name(), datetime.now(UTC)
    text = gpu_table.head(device, driver=gpu_table.driver_version(), root=ROOT, now=now)
    print("\n".join(text), flush=True)
    ends, lines = time.monotonic() + TOTAL_S, list[Line]()
    for index, name in enumerate(wanted):
        found = in_own_process(name, limit_s=max(0.0, ends - time.monotonic()) / (len(wanted) - index))
        rows = gpu_table.table(found)
        print("\n".join(rows), flush=True)
        text += rows
        lines += found
    print(gpu_table.write(RESULTS, text, device=device, now=now))
    return 1 if any(line.is_failure for line in lines) else 0


def row_names() -> list[str]:
    return sorted(path.stem for path in (HERE / "gpu").glob("*.py"))


def in_own_process(name: str, *, limit_s: float) -> list[Line]:
    """The lines of one file of rows; a crash, a hang or a spoilt GPU context ends its process alone."""
    with tempfile.TemporaryDirectory() as folder:
        out, said = Path(folder) / "lines.jsonl", Path(folder) / "stderr"
        command = [sys.executable, str(HERE / "bench_gpu.py"), "--lines", name, str(out)]
        with (
            said.open("wb") as stderr,
            subprocess.Popen(command, cwd=ROOT, stderr=stderr, start_new_session=True) as process,
        ):
            try:
                process.wait(limit_s)
                note = f"ended with exit code {process.returncode}" if process.returncode else ""
            except subprocess.TimeoutExpired:
                note = f"not done after its {limit_s:.0f} s; lines are missing"
            finally:
                _kill_group(process.pid)
        words = said.read_text(errors="replace")
        print(words, end="", file=sys.stderr)
        if note and words.strip():
            note = f"{note}: {words.strip().splitlines()[-1][:200]}"
        lines = [Line(**json.loads(line)) for line in out.read_text().splitlines()] if out.exists() else []
    return [*lines, Line(row=name, variant="", note=note, is_failure=True)] if note else lines


def write_lines(name: str, out: Path, device: torch.device) -> None:
    """Measure the rows of one file and keep each line as soon as it is there."""
    rows: Sequence[Row] = importlib.import_module(f"tests.benchmarks.gpu.{name}").ROWS
    compiled = [row.compiled_lines for row in rows if isinstance(row, KernelRow)]
    with out.open("a") as stream:
        for measure in [*(row.lines for row in rows), *compiled]:
            for line in measure(device):
                stream.write(json.dumps(asdict(line)) + "\n")
                stream.flush()


def _kill_group(leader: int) -> None:
    """End what the process left running, as workers of a compiler."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    if sys.argv[1:2] == ["--lines"]:
        write_lines(sys.argv[2], Path(sys.argv[3]), torch.device("cuda"))
    else:
        sys.exit(main(sys.argv[1:]))

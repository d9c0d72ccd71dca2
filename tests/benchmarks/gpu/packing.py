"""Row: tokens per second of 1, 2, 4 and 8 trainings that share one GPU."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from tests.benchmarks.gpu.train import SMALL, Size, Training, as_written
from tests.benchmarks.gpu_rows import Line, Row

ROOT = Path(__file__).resolve().parents[3]
WARM_UPS = 3
READY_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingRow:
    """Processes that train one program side by side; counted in `windows` of `window_s` that all take part in."""

    name: str
    program: str
    size: Size
    together: tuple[int, ...]
    windows: int = 7
    window_s: float = 1.5
    over_alone: float  # target of the largest of the aggregate rates

    def lines(self, device: torch.device) -> Iterator[Line]:
        title = f"{self.name}, {self.size.sequences} x {self.size.length} tokens a step, bfloat16"
        alone: float | None = None
        best = 0.0
        for count in self.together:
            rates = self._rates(count, device)
            low, median, high = statistics.quantiles(rates, n=4, method="inclusive")
            alone = alone or median
            best = max(best, median)
            name = f"{count} process{'es' if count > 1 else ''}"
            ratio = median / alone
            yield Line(
                row=title, variant=name, median=median, low=low, high=high, unit="tokens/s", note=f"{ratio:.2f} of one"
            )
        assert alone is not None
        yield Line(row=title, variant="most", median=best, unit="tokens/s", ratio=best / alone, target=self.over_alone)

    def _rates(self, count: int, device: torch.device) -> list[float]:
        """Tokens per second of all processes together, in each window."""
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            order = {"program": self.program, "size": asdict(self.size), "device": str(device)}
            processes = []
            for index in range(count):
                command = [sys.executable, "-m", "tests.benchmarks.gpu.packing", folder, str(index), json.dumps(order)]
                process = stack.enter_context(subprocess.Popen(command, cwd=ROOT))
                stack.callback(process.kill)
                processes.append(process)
            ends = time.monotonic() + READY_LIMIT_S
            while len(list(Path(folder).glob("ready-*"))) < count:
                if time.monotonic() > ends or any(one.poll() is not None for one in processes):
                    raise TimeoutError(f"{count} trainings side by side were not ready after {READY_LIMIT_S:.0f} s")
                time.sleep(0.05)
            begun = time.monotonic()
            time.sleep(self.windows * self.window_s)
            (Path(folder) / "stop").touch()
            for process in processes:
                if process.wait(READY_LIMIT_S):
                    raise ChildProcessError(f"a training beside {count - 1} others failed")
            ticks = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("ticks-*"))]
        edges = [begun + index * self.window_s for index in range(self.windows + 1)]
        return rates_in(ticks, edges, tokens=self.size.tokens)


def rates_in(ticks: Sequence[Sequence[float]], edges: Sequence[float], *, tokens: int) -> list[float]:
    """Tokens per second between neighbouring edges, from the times at which each process ended its steps.

    A step counts for the share of it that lies between the edges.
    """
    rates = []
    for begin, end in pairwise(edges):
        steps = 0.0
        for one in ticks:
            for earlier, later in pairwise(one):
                steps += max(0.0, min(end, later) - max(begin, earlier)) / (later - earlier)
        rates.append(steps * tokens / (end - begin))
    return rates


def work(folder: Path, index: int, *, program: str, size: Size, device: torch.device) -> None:
    """Train until a file asks to stop; leave the times at which steps ended, on the clock of the machine."""
    training = Training(as_written(program), size, device)
    for _ in range(WARM_UPS):
        training.step()
    (folder / f"ready-{index}").touch()
    ticks = []
    while True:
        if device.type == "cuda":
            torch.cuda.synchronize()
        ticks.append(time.monotonic())
        # one step more than asked for, so that the last window is full
        if len(ticks) > 1 and (folder / "stop").exists():
            break
        training.step()
    (folder / f"ticks-{index}").write_text(json.dumps(ticks))


ROWS: tuple[Row, ...] = (
    PackingRow(
        name="packing, the seed program of 19 M as written",
        program="seed_program",
        # eight of them fit the memory of one GPU
        size=replace(SMALL, micro_batch=4, sequences=8),
        together=(1, 2, 4, 8),
        over_alone=2.0,
    ),
)

if __name__ == "__main__":
    given = json.loads(sys.argv[3])
    work(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        program=given["program"],
        size=Size(**given["size"]),
        device=torch.device(given["device"]),
    )

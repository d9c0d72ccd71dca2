"""The fault table: its rows, how one is tried, and how outcomes are kept and printed."""

from __future__ import annotations

import json
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from cognition_db.experience.files import write_atomic
from tests.slurm_cluster.cluster import SlurmCluster
from tests.slurm_cluster.configuration import ClusterOptions
from tests.slurm_cluster.faults.bench import Bench, Facts

Check = Callable[[Bench], Facts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault: `check` does it to a fresh cluster, and gives what it measured or raises with what did not hold."""

    name: str
    fault: str
    must_hold: str
    check: Check
    is_heavy: bool = False  # its model server wants the cores for itself: such rows are tried one after the other
    options: ClusterOptions = ClusterOptions()  # noqa: RUF009 (frozen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`detail` is what was measured, or the reason why the row does not hold."""

    row: str
    holds: bool
    seconds: float
    detail: str

    def line(self) -> str:
        return f"{self.row:<26} {'holds' if self.holds else 'FAILS':<6} {self.seconds:>5.0f} s  {self.detail}"


class Kept:
    """Outcomes by state of the sources, in one file; those of older states are dropped."""

    def __init__(self, path: Path, state: str) -> None:
        self._path = path
        self._state = state

    def read(self) -> dict[str, Outcome]:
        try:
            data = json.loads(self._path.read_text())
            return {row: Outcome(**one) for row, one in data[self._state].items()}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return {}

    def add(self, outcome: Outcome) -> None:
        rows = {**self.read(), outcome.row: outcome}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path, json.dumps({self._state: {row: asdict(one) for row, one in rows.items()}}).encode())


def measure(row: Row, *, is_short: bool) -> Facts:
    """Do the fault on a cluster of its own; what was measured, or AssertionError with what did not hold."""
    with SlurmCluster(row.options) as cluster:
        return row.check(Bench(cluster=cluster, is_short=is_short, rng=random.Random(row.name)))


def try_row(row: Row, *, is_short: bool) -> Outcome:
    """The same as an outcome, whatever happens; a failure of the row itself is one with its last call."""
    begun = time.monotonic()
    try:
        facts = measure(row, is_short=is_short)
    except AssertionError as error:
        holds, detail = False, " ".join(str(error).split())
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        holds, detail = False, f"{type(error).__name__}: {' '.join(str(error).split())} ({last.name}:{last.lineno})"
    else:
        holds, detail = True, ", ".join(f"{name} {_text(value)}" for name, value in facts.items())
    return Outcome(row=row.name, holds=holds, seconds=time.monotonic() - begun, detail=detail)


def run_table(
    rows: Iterable[Row],
    *,
    kept: Kept,
    again: bool,
    attempt: Callable[[Row], Outcome],
    say: Callable[[str], None],
    lanes: int = 1,
) -> bool:
    """Try every row, print its line when it is known, and say at the end how many hold.

    Rows that held before are not tried again, unless `again`. `lanes`: rows tried at once.
    """
    wanted = list(rows)
    before = {} if again else {name: one for name, one in kept.read().items() if one.holds}
    outcomes = [before[row.name] for row in wanted if row.name in before]
    for outcome in outcomes:
        say(outcome.line())
    turns = _Turns([row for row in wanted if row.name not in before])
    with ThreadPoolExecutor(lanes) as pool:
        tries = [pool.submit(turns.next, attempt) for _ in range(turns.count)]
        try:
            for one in as_completed(tries):
                outcomes.append(one.result())
                kept.add(outcomes[-1])
                say(outcomes[-1].line())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # one that is interrupted begins no other row
            raise
    held = sum(outcome.holds for outcome in outcomes)
    say(f"faults: {held} of {len(wanted)} hold")
    return held == len(wanted)


class _Turns:
    """Whose turn it is: heavy rows first, and never two of them at once."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.count = len(rows)
        self._waiting = sorted(rows, key=lambda row: not row.is_heavy)
        self._changed = threading.Condition()
        self._heavy_runs = False

    def next(self, attempt: Callable[[Row], Outcome]) -> Outcome:
        """Try the next row that may run; waits where only heavy ones are left and one of them runs."""
        with self._changed:
            self._changed.wait_for(lambda: self._allowed() is not None)
            row = self._allowed()
            assert row is not None
            self._waiting.remove(row)
            self._heavy_runs |= row.is_heavy
        try:
            return attempt(row)
        finally:
            with self._changed:
                self._heavy_runs &= not row.is_heavy
                self._changed.notify_all()

    def _allowed(self) -> Row | None:
        return next((row for row in self._waiting if not (row.is_heavy and self._heavy_runs)), None)


def _text(value: int | float | str) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)

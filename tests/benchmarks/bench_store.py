"""Writing and scanning results: our columns against a group per record, in one run; prints ratios of medians.

Run: python -m tests.benchmarks.bench_store [records] [points per curve]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np

from cognition_db.experience.shard import read_shard, write_shard
from cognition_db.records import Evaluation, Score, Task, candidate_id, canonical_json, sha256_text

_REPEATS = 7


def main(records: int = 1000, points: int = 500) -> None:
    evaluations = _evaluations(records, points)
    with tempfile.TemporaryDirectory() as folder:
        ours, groups = Path(folder) / "columns.h5", Path(folder) / "groups.h5"
        # interleaved, so that a change of the machine's load meets both sides
        rows: dict[str, tuple[list[float], list[float]]] = {}
        for _ in range(_REPEATS):
            for name, left, right in (
                (
                    "write, synced",
                    lambda: write_shard(ours, evaluations, generation=0),
                    lambda: _write(groups, evaluations),
                ),
                ("scan one score", lambda: _scan_columns(ours), lambda: _scan_groups(groups)),
                ("scan all curves", lambda: _curves_columns(ours), lambda: _curves_groups(groups)),
                ("read all, digests checked", lambda: read_shard(ours), lambda: _read_groups(groups)),
            ):
                pair = rows.setdefault(name, ([], []))
                pair[0].append(_seconds(left))
                pair[1].append(_seconds(right))
        print(f"{records} records, curves of {points} points, {_REPEATS} repeats, h5py {h5py.__version__}")
        print(f"{'':28}{'columns ms':>12}{'groups ms':>12}{'ratio':>8}")
        for name, (left_s, right_s) in rows.items():
            a, b = statistics.median(left_s), statistics.median(right_s)
            print(f"{name:28}{a * 1e3:12.2f}{b * 1e3:12.2f}{b / a:8.1f}")
        print(f"{'size, MB':28}{ours.stat().st_size / 1e6:12.2f}{groups.stat().st_size / 1e6:12.2f}")


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _evaluations(records: int, points: int) -> list[Evaluation]:
    rng = np.random.default_rng(0)
    return [
        Evaluation(
            task=Task(candidate_id=candidate_id(str(index)), stage="explore", seed=index, attempt=0),
            unit="g0001-u00",
            fencing_token="token/g0001-u00/0/4711/0",
            ending="finished",
            cause="",
            scores=tuple(Score(name=f"s{n}", value=float(rng.random()), count=64, unit="fraction") for n in range(5)),
            curve_steps=tuple(range(points)),
            curve_loss=tuple(rng.random(points).tolist()),
            tokens_seen=1_000_000,
            parameter_count=1_000_000,
            wall_s=1.0,
            cpu_s=1.0,
            peak_memory_mb=100.0,
            resumed_from_step=0,
            started_unix=1_750_000_000.0,
            host="node",
            versions={"torch": "2.9"},
            config_sha256=sha256_text("config"),
            program_sha256=sha256_text(str(index)),
        )
        for index in range(records)
    ]


def _write(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """The usual layout: a group for each record, numbers and text as attributes, the curve as two datasets."""
    with h5py.File(path, "w") as file:
        for item in evaluations:
            group = file.create_group(item.task.key)
            for name in Evaluation.__slots__:
                value = getattr(item, name)
                if isinstance(value, int | float | str):
                    group.attrs[name] = value
            group.attrs["versions"] = canonical_json(item.versions)
            group.attrs["seed"] = item.task.seed
            for score in item.scores:
                group.attrs[f"score_{score.name}"] = score.value
            group["curve_steps"] = np.array(item.curve_steps)
            group["curve_loss"] = np.array(item.curve_loss)


def _scan_columns(path: Path) -> float:
    with h5py.File(path) as file:
        return float(file["scores/value"][::5].sum())


def _scan_groups(path: Path) -> float:
    with h5py.File(path) as file:
        return float(sum(group.attrs["score_s0"] for group in file.values()))


def _curves_columns(path: Path) -> float:
    with h5py.File(path) as file:
        return float(file["evaluations/curve_loss/values"][:].sum())


def _curves_groups(path: Path) -> float:
    with h5py.File(path) as file:
        return float(sum(group["curve_loss"][:].sum() for group in file.values()))


def _read_groups(path: Path) -> list[dict[str, object]]:
    with h5py.File(path) as file:
        return [
            {**group.attrs, "steps": group["curve_steps"][:].tolist(), "loss": group["curve_loss"][:].tolist()}
            for group in file.values()
        ]


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))

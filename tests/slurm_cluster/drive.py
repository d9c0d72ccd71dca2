"""Drives a ClusterLauncher for the tests, as the user of the cluster: `drive.py ACTION FOLDER COMMENT [options]`.

Prints one JSON object. Every element makes <folder>/<unit>.started.<job id> when it begins, <folder>/<unit>.beat while
it lives, and <folder>/<unit>.done when it has finished; the probe looks for the last two.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from slurm import (
    ClusterLauncher,
    Evidence,
    Order,
    Resources,
    SlurmError,
    Submission,
    UnavailableError,
    UnitState,
    WorkUnit,
)

_ELEMENT = """
touch "$0/$1.started.$SLURM_JOB_ID"; date +%s.%N
(while kill -0 $$ 2>&-; do touch "$0/$1.beat"; sleep 1; done) >&- 2>&- &
sleep "$2"; date +%s.%N; echo "$MARK" > "$0/$1.done"
"""
_SETTLED = {UnitState.DONE, UnitState.ENDED, UnitState.HELD}


def main() -> None:
    options = _options()
    resources = Resources(
        cpus_per_task=1,
        memory_gb=options.memory_gb,
        timeout_min=options.timeout_min,
        partition=options.partition,
        constraint=options.constraint,
        extra_sbatch={"nice": 1},
    )
    launcher = ClusterLauncher(resources, poll_s=options.poll_s, max_parallel=options.max_parallel)
    try:
        answer = _ACTIONS[options.action](launcher, options)
    except SlurmError as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    print(json.dumps(answer))


def _submit(launcher: ClusterLauncher, options: argparse.Namespace) -> dict[str, Any]:
    folder, units = Path(options.folder), _units(options.count)
    order = Order(
        units=units,
        command=lambda index: ["bash", "-c", _ELEMENT, str(folder), units[index].name, str(options.sleep_s)],
        folder=folder,
        name="asx-test",
        comment=options.comment,
        environment={"MARK": "it's here"},
    )
    submission = launcher.submit(order)
    _record(submission)
    return submission.to_json()


def _find(launcher: ClusterLauncher, options: argparse.Namespace) -> dict[str, Any]:
    found = launcher.find(options.comment, folder=Path(options.folder))
    return {"found": None if found is None else found.to_json()}


def _wait(launcher: ClusterLauncher, options: argparse.Namespace) -> dict[str, Any]:
    """Ask until every unit is settled, or for `limit_s`; the answer has every state that each unit was seen in."""
    folder = Path(options.folder)
    submission = Submission.from_json(json.loads((folder / "submission.json").read_text()))
    seen: dict[str, list[str]] = {name: [] for name in submission.units}
    units = _units(len(submission.units))
    deadline = time.monotonic() + options.limit_s
    while True:
        states = launcher.states(submission, units, lambda unit: _evidence(folder, unit))
        for unit, state in states.items():
            if seen[unit][-1:] != [state.value]:
                seen[unit].append(state.value)
        if time.monotonic() > deadline or all(state in _SETTLED for state in states.values()):
            return {"seen": seen, "notes": launcher.notes(submission)}
        time.sleep(0.2)


def _run(launcher: ClusterLauncher, options: argparse.Namespace) -> dict[str, Any]:
    """What a driver does, and one that is started anew: find the submission or make it, then wait."""
    while True:
        try:
            if not (Path(options.folder) / "submission.json").exists():
                found = launcher.find(options.comment, folder=Path(options.folder))
                if found is None:
                    _submit(launcher, options)
                else:
                    _record(found)
            return _wait(launcher, options)
        except UnavailableError:
            time.sleep(options.poll_s)


def _record(submission: Submission) -> None:
    path = Path(submission.folder) / "submission.json"
    path.with_suffix(".tmp").write_text(json.dumps(submission.to_json()))
    path.with_suffix(".tmp").replace(path)


def _evidence(folder: Path, unit: str) -> Evidence:
    beat = folder / f"{unit}.beat"
    return Evidence(
        done=(folder / f"{unit}.done").exists(), heartbeat_unix=beat.stat().st_mtime if beat.exists() else None
    )


def _cancel(launcher: ClusterLauncher, options: argparse.Namespace) -> dict[str, Any]:
    launcher.cancel(Submission.from_json(json.loads((Path(options.folder) / "submission.json").read_text())))
    return {}


def _units(count: int) -> tuple[WorkUnit, ...]:
    return tuple(WorkUnit(name=f"u{index:03d}", index=index) for index in range(count))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=sorted(_ACTIONS))
    parser.add_argument("folder")
    parser.add_argument("comment")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--sleep-s", type=float, default=0.0)
    parser.add_argument("--max-parallel", type=int, default=4)
    parser.add_argument("--poll-s", type=float, default=0.5)
    parser.add_argument("--limit-s", type=float, default=60.0)
    parser.add_argument("--constraint")
    parser.add_argument("--partition")
    parser.add_argument("--memory-gb", type=float, default=0.1)
    parser.add_argument("--timeout-min", type=int, default=5)
    return parser.parse_args()


_ACTIONS = {"submit": _submit, "find": _find, "wait": _wait, "run": _run, "cancel": _cancel}

if __name__ == "__main__":
    main()

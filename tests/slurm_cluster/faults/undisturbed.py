"""The campaign that the faults are done to, and what it measures when nothing is done to it.

Both are made once per state of the sources and kept in a folder that git ignores.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from arch_search.campaign import open_campaign
from cognition_db.experience.archive import ArchiveContents
from cognition_db.experience.files import write_atomic
from tests.owner import REPOSITORY

HOOKS = Path(__file__).parent / "hooks"
KEPT = REPOSITORY / ".cache" / "faults"
_PROGRAM = ("arch_search", "slurm", "cognition_db", "kernels", "hydra_conf", "tests/data")
_RECORDING = REPOSITORY / "tests" / "data" / "recorded_replies.jsonl"
ATTEMPTS = 200
# trainings of about ten seconds, six in generation 1, none ended for the slowness of a busy machine
CAMPAIGN = (
    *("campaign=smoke", "campaign.dir=campaign", "campaign.generations=1", "campaign.baselines=[]"),
    *("campaign.reference_seeds=3", "campaign.seeds_per_candidate=3"),
    *("campaign.slots.grammar_edit=1", "campaign.slots.grammar_program=0"),
    *("campaign.slots.mutation=1", "campaign.slots.placebo=0", "llm=recorded", f"llm.recording={_RECORDING}"),
    # the source text of Python would be another one for a user of another Python
    *("data=text", f"data.path={_RECORDING}"),
    *("stage.steps=500", "stage.slow_factor=1000000", "stage.task_limit_s=3000", "stage.checkpoint_every_s=1"),
)
Scores = Mapping[str, Mapping[str, float]]


@cache
def state_of_sources() -> str:
    """A hash over everything that the outcome of a row depends on."""
    return _hash(*_PROGRAM, "tests/slurm_cluster")


@cache
def _state_of_campaign() -> str:
    return _hash(*_PROGRAM, "tests/slurm_cluster/faults/undisturbed.py")


def _hash(*names: str) -> str:
    whole = hashlib.sha256()
    for name in names:
        place = REPOSITORY / name
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                whole.update(str(path.relative_to(REPOSITORY)).encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]


def measured(contents: ArchiveContents) -> dict[str, dict[str, float]]:
    """Scores by training, without those that tell time; equal runs agree in them to the last bit."""
    return {
        one.task.key: {score.name: score.value for score in one.scores if score.name != "step_s"}
        for one in contents.evaluations
    }


def undisturbed() -> Scores:
    """What CAMPAIGN measures."""
    scores: Scores = json.loads((_made() / "measured.json").read_text())
    return scores


def prepared() -> Path:
    """A folder of CAMPAIGN whose generation 0 is closed and whose generation 1 is about to be submitted; to copy."""
    return _made() / "prepared"


def reference_step_s() -> float:
    """CPU-seconds that one step of the reference took on this machine."""
    found = [one.score("step_s") for one in open_campaign(prepared()).contents().evaluations]
    return statistics.median(seconds for seconds in found if seconds)


def _made() -> Path:
    folder = KEPT / f"campaign-{_state_of_campaign()}"
    if (folder / "measured.json").exists():
        return folder
    for old in KEPT.glob("campaign-*"):
        shutil.rmtree(old)
    folder.mkdir(parents=True)
    run = [*CAMPAIGN, f"campaign.attempts_per_task={ATTEMPTS}", "slurm=inline"]
    assert _run(run, cwd=folder, KILL_BEFORE="gen-0001/manifest-") == -signal.SIGKILL
    shutil.copytree(folder / "campaign", folder / "prepared", symlinks=True)
    assert _run(run, cwd=folder) == 0
    contents = open_campaign(folder / "campaign").contents()
    bad = [f"{one.task.key}: {one.cause}" for one in contents.evaluations if one.ending != "finished"]
    assert not bad, bad
    write_atomic(folder / "measured.json", json.dumps(measured(contents)).encode())
    return folder


def _run(overrides: Sequence[str], *, cwd: Path, **variables: str) -> int:
    """Exit code of `arch-search run`, by the user of the tests and without a cluster; its words go to out.txt."""
    path = f"{HOOKS}:{REPOSITORY}"
    with (cwd / "out.txt").open("ab") as out:
        return subprocess.run(
            [sys.executable, "-m", "arch_search.cli", "run", *overrides],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **variables},
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=1800,
            check=False,
        ).returncode

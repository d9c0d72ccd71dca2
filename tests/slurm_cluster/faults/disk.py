"""Rows: a campaign folder on a full disk, and one that is read-only for a while."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.slurm_cluster.faults.bench import Bench, Facts, Trial
from tests.slurm_cluster.faults.processes import supervisors

READ_ONLY_S = 60
_FILLER = "filler"


def full_disk(bench: Bench) -> Facts:
    """The disk of the campaign fills up while elements train; later there is room again."""
    _require_root()
    trial = Trial(bench, is_prepared=False)
    times = bench.often(2, 1)
    with _small_disk(trial):
        trial.prepare()
        with trial.running() as watch:
            for _ in range(times):
                _fill_until_it_says_so(trial)
            trial.finish()
        return {"times full": times, **trial.check_all(watch)}


def _fill_until_it_says_so(trial: Trial) -> None:
    """No room until the driver has named the reason and waited for some seconds."""
    bench = trial.bench
    bench.wait_for(lambda: trial.is_over or bool(supervisors(trial.folder)), "no element runs", limit_s=180)
    said = len(trial.said())
    _fill(trial.cwd)
    bench.wait_for(
        lambda: trial.is_over or _names_disk(trial.said()[said:]),
        "the driver does not say that the disk is full",
        limit_s=120,
    )
    time.sleep(5)
    assert not trial.is_over, f"the driver did not wait for room: {trial.said()[-800:]}"
    (trial.cwd / _FILLER).unlink()


def read_only(bench: Bench) -> Facts:
    """The campaign folder can't be written for a minute."""
    _require_root()
    trial = Trial(bench, is_prepared=True)
    seconds = bench.often(READ_ONLY_S, 15)
    with trial.running() as watch:
        bench.wait_for(lambda: bool(supervisors(trial.folder)), "no element runs", limit_s=180)
        said = len(trial.said())
        with _read_only(trial.folder):
            time.sleep(seconds)
            assert not trial.is_over, f"the driver did not wait: {trial.said()[-800:]}"
        trial.finish()
    reason = next((line for line in trial.said()[said:].splitlines() if "ead-only" in line), "")
    assert reason, f"the driver did not say why it paused: {trial.said()[said:][-800:]}"
    return {"read-only s": seconds, **trial.check_all(watch)}


def _require_root() -> None:
    assert os.geteuid() == 0, "only root may mount a small disk: run this row as root"


def _names_disk(text: str) -> bool:
    return any(word in text.lower() for word in ("no space", "room", "disk"))


@contextmanager
def _small_disk(trial: Trial) -> Iterator[None]:
    """The folder of the campaign on a disk of its own."""
    owner = trial.bench.cluster.owner
    options = f"size=150m,uid={owner.uid},gid={owner.gid},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(trial.cwd)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(trial.cwd)], check=True)


def _fill(folder: Path) -> None:
    """A file that takes all room there is."""
    with (folder / _FILLER).open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 65536)
        except OSError:
            return


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """A read-only view over the folder: whatever is opened from now on can't be written."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)

"""A whole campaign on a real Slurm: every training an array element, by `arch-search run` as a user would type it."""

from __future__ import annotations

import json

import pytest

from cognition_db.experience.archive import read_archive
from tests.owner import REPOSITORY
from tests.slurm_cluster.cluster import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
RECORDING = REPOSITORY / "tests/data/recorded_replies.jsonl"
SEEDS = 4


def test_a_campaign_of_two_generations_runs_through_arrays_of_twenty_elements(slurm_cluster: SlurmCluster) -> None:
    cwd = slurm_cluster.make_folder("campaign")
    run = [
        slurm_cluster.python, "-m", "arch_search.cli", "run", "campaign=smoke", "slurm=cluster",
        "slurm.poll_s=2", "slurm.max_parallel=2", "slurm.timeout_min=5", "slurm.memory_gb=1",
        "llm=recorded", f"llm.recording={RECORDING}", "campaign.generations=2",
        f"campaign.seeds_per_candidate={SEEDS}", f"campaign.reference_seeds={SEEDS}", "campaign.slots.mutation=2",
        "campaign.tries_per_slot=6",
    ]  # fmt: skip
    done = slurm_cluster.run_as_user(run, cwd=cwd, timeout_s=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder = cwd / "campaigns" / "smoke-001"
    contents = read_archive(folder / "archive.h5")
    assert contents.evaluations
    assert all(one.ending == "finished" for one in contents.evaluations), [one.cause for one in contents.evaluations]
    for number in (1, 2):
        submission = json.loads((folder / f"gen-{number:04d}" / "submission-001.json").read_text())["submission"]
        assert submission["kind"] == "cluster"
        assert sum(array["count"] for array in submission["arrays"]) >= 5 * SEEDS
        left = [
            file.name
            for file in (folder / f"gen-{number:04d}/units").glob("*/*")
            if file.suffix in (".sh", ".commands")
        ]
        assert left == [], "scripts of closed generations are removed"
    jobs = {one.fencing_token.split("/")[3] for one in contents.evaluations}
    assert len(jobs) == len(contents.evaluations), "every training names the array element that ran it"
    checked = slurm_cluster.run_as_user(
        [slurm_cluster.python, "-m", "arch_search.cli", "fsck", str(folder)], cwd=cwd, timeout_s=120
    )
    assert checked.returncode == 0, checked.stdout

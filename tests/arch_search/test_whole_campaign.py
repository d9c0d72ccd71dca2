"""Whole campaigns with replies recorded from the real model, checked as a user would find them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import SMALL as SMOKE
from small_campaign import arch_search, archive, descendants, kill, measured, start

from arch_search.campaign import open_campaign, start_or_continue
from arch_search.integrity import check_campaign
from arch_search.settings import load_config
from cognition_db.experience.shard import parse_shard, write_shard
from cognition_db.records import HIDDEN_SEEDS_FROM, SCHEMA_VERSION

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("whole_campaign")]  # what its tests share takes long to make
KILLS = 30
SMALL = (*SMOKE, "selection.repeat_seeds=1", "selection.parents_from_top=2", "campaign.slots.best_of_n=1")


def same_questions(finished: Path) -> str:
    """What makes another campaign ask the held-out questions of this one."""
    return f"campaign.secret_from={finished}/campaigns/smoke-001/driver/secret"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which one undisturbed campaign ran to its end."""
    cwd = tmp_path_factory.mktemp("a campaign")  # the space is meant
    answer = arch_search("run", *SMALL, cwd=cwd)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return cwd


def test_a_campaign_runs_to_its_end_and_says_where_the_report_is(finished: Path) -> None:
    contents = archive(finished)
    assert (finished / "campaigns" / "smoke-001" / "report.html").exists()
    assert all(one.ending == "finished" for one in contents.evaluations), [one.cause for one in contents.evaluations]
    assert {one.proposal.arm for one in contents.tries} == {"baseline", "evolve", "mutate", "placebo", "best_of_n"}
    written = [one for one in contents.candidates if one.arm == "evolve"]
    assert len(written) >= 2
    first = {one.id for one in contents.candidates if one.generation == 1}
    assert any(set(one.parents) & first for one in contents.candidates if one.generation == 2)


def test_only_the_reference_and_who_was_repeated_with_hidden_seeds_become_parents(finished: Path) -> None:
    contents = archive(finished)
    repeated = {one.task.candidate_id: one for one in contents.evaluations if one.task.seed >= HIDDEN_SEEDS_FROM}
    reference = next(one for one in contents.candidates if one.slot == one.generation == 0)
    later = [one for one in contents.candidates if one.generation == 2]
    assert {parent for one in later for parent in one.parents} <= set(repeated)
    for generation in (1, 2):
        mine = [one for one in contents.candidates if one.id in repeated and one.generation == generation]
        assert 1 <= len(mine) <= 2
        assert all(one.arm in ("evolve", "mutate") for one in mine)
    assert reference.id in repeated
    assert len({one.task.seed for one in repeated.values()}) == 1
    report = (finished / "campaigns" / "smoke-001" / "report.html").read_text()
    assert "trained again with hidden seeds before becoming parents" in report
    assert "on hidden seeds; " in report


def test_the_control_always_starts_from_the_reference_and_nobody_builds_on_it(finished: Path) -> None:
    contents = archive(finished)
    reference = next(one for one in contents.candidates if one.slot == one.generation == 0)
    controls = [one.proposal for one in contents.tries if one.proposal.arm == "best_of_n"]
    assert {one.generation for one in controls} == {1, 2}
    assert all(one.parents == (reference.id,) and one.rung == "grammar_edit" for one in controls)
    mine = {one.id for one in contents.candidates if one.arm == "best_of_n"}
    assert not any(set(one.parents) & mine for one in contents.candidates)


@pytest.mark.parametrize(
    "damaged",
    ["gen-0001/shards.zip", "gen-0001/slots/000-0.json", "gen-0001/repeats.json", "archive.h5", "journal.jsonl"],
)
def test_fsck_finds_a_finished_campaign_clean_and_names_what_was_damaged(finished: Path, damaged: str) -> None:
    folder = finished / "campaigns" / "smoke-001"
    assert arch_search("fsck", str(folder), cwd=finished).returncode == 0
    file = folder / damaged
    good = file.read_bytes()
    middle = len(good) // 2
    try:
        file.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
        answer = arch_search("fsck", str(folder), cwd=finished)
    finally:
        file.write_bytes(good)
    assert answer.returncode == 1
    assert file.name in answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr


def test_fsck_names_a_shard_that_was_forged_after_its_generation_was_closed(finished: Path) -> None:
    """The forger writes whole files with fitting digests, into shards, archive and journal alike, but has no secret."""
    folder = finished / "campaigns" / "smoke-001"
    packed = folder / "gen-0001" / "shards.zip"
    good = packed.read_bytes()
    with zipfile.ZipFile(packed) as file:
        shards = {name: file.read(name) for name in file.namelist()}
    forged = sorted(shards)[0]
    try:
        write_shard(finished / "forged.h5", parse_shard(shards[forged]), generation=1, secret="0" * 64)
        with zipfile.ZipFile(packed, "w") as file:
            for name, data in shards.items():
                file.writestr(name, (finished / "forged.h5").read_bytes() if name == forged else data)
        answer = arch_search("fsck", str(folder), cwd=finished)
    finally:
        packed.write_bytes(good)
    assert answer.returncode == 1
    assert "without the seal of this campaign" in answer.stdout
    assert forged in answer.stdout


def test_fsck_checks_all_but_the_seals_where_the_secret_was_not_handed_on(finished: Path, tmp_path: Path) -> None:
    folder = finished / "campaigns" / "smoke-001"
    secret = (folder / "driver" / "secret").rename(tmp_path / "kept")
    try:
        answer = arch_search("fsck", str(folder), cwd=finished)
    finally:
        secret.rename(folder / "driver" / "secret")
    assert answer.returncode == 1
    assert "seals of the shards: not checked" in answer.stdout.replace("\n", " ")
    assert "no shard holds" not in answer.stdout


def test_ticks_and_checks_as_jobs_come_to_the_same_measurements(finished: Path, tmp_path: Path) -> None:
    """What cron does on a cluster whose login node may not run programs."""
    folder = tmp_path / "campaign"
    other = ("admission.where=job", "campaign.generations=1", f"campaign.dir={folder}")
    config = load_config([*SMALL, same_questions(finished), *other])
    start_or_continue(config, command=["arch-search", "run"], base=tmp_path).journal.close()
    for _ in range(100):
        answer = arch_search("tick", str(folder), cwd=tmp_path)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        if answer.stdout.strip().endswith("finished"):
            break
    ticked, whole = measured(open_campaign(folder).contents()), measured(archive(finished))
    assert ticked
    assert ticked.items() <= whole.items()


def test_status_and_show_answer_from_the_files(finished: Path) -> None:
    facts = json.loads(arch_search("status", "campaigns/smoke-001", "--json", cwd=finished).stdout)
    assert facts["finished"] is True
    assert facts["trainings_done"] == len(archive(finished).evaluations)
    shown = arch_search("show", "campaigns/smoke-001", "deltanet", cwd=finished)
    assert "class DeltaNet" in shown.stdout
    assert arch_search("show", "campaigns/smoke-001", "no-such", cwd=finished).returncode == 1


def test_the_archive_is_readable_with_h5py_alone(finished: Path) -> None:
    with h5py.File(finished / "campaigns" / "smoke-001" / "archive.h5") as file:
        assert int(file.attrs["schema_version"]) == SCHEMA_VERSION
        assert {"candidates", "evaluations", "tries"} <= set(file)


def test_two_campaigns_with_the_same_seed_and_replies_are_the_same(finished: Path, tmp_path: Path) -> None:
    answer = arch_search("run", *SMALL, same_questions(finished), cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert measured(archive(tmp_path)) == measured(archive(finished))


@pytest.mark.first
@pytest.mark.timeout(1800)
def test_killed_at_random_moments_a_campaign_ends_with_the_same_measurements(finished: Path, tmp_path: Path) -> None:
    """Driver, supervisor or child is killed; nothing acknowledged may be lost or measured to another value."""
    rng = random.Random(20261120)
    kills, seen, window_s = 0, 0, 4.0
    while True:
        driver = start("run", *SMALL, same_questions(finished), "campaign.attempts_per_task=100", cwd=tmp_path)
        until = time.monotonic() + (rng.uniform(0.2, window_s) if kills < KILLS else 600)
        while driver.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        if driver.poll() is not None:
            assert driver.returncode == 0, (tmp_path / "out.txt").read_text()[-3000:]
            if kills >= KILLS:
                break
        else:
            kills += 1
            workers = descendants(driver.pid)
            if workers and rng.random() < 0.3:
                os.kill(rng.choice(workers), signal.SIGKILL)
                time.sleep(rng.uniform(0.0, 2.0))
            kill(driver)
        recorded = sum(len(path.read_bytes()) for path in tmp_path.glob("campaigns/*/journal.jsonl"))
        # a machine too busy to record anything between two kills is given longer, so that all steps get killed
        window_s, seen = (4.0 if recorded > seen else window_s * 1.5), recorded
        for folder in (tmp_path / "campaigns").glob("*/campaign.json"):
            assert check_campaign(open_campaign(folder.parent)) == [], f"after {kills} kills"
    for folder in sorted((tmp_path / "campaigns").iterdir()):
        assert measured(archive(tmp_path, folder.name)) == measured(archive(finished))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
@pytest.mark.parametrize("size", ["150k", "800k"])  # too small for the corpus; for the first trainings
def test_a_full_disk_stops_with_one_line_and_the_campaign_goes_on_once_there_is_room(tmp_path: Path, size: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    small = ("data.max_bytes=200000", f"campaign.dir={disk / 'c'}", "campaign.generations=1", "campaign.baselines=[]")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    try:
        full = arch_search("run", *SMALL, *small, cwd=tmp_path)
        assert full.returncode == 1
        assert len(full.stderr.strip().splitlines()) == 1, full.stderr
        assert "room" in full.stderr or "space" in full.stderr, full.stderr
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        again = arch_search("run", *SMALL, *small, cwd=tmp_path)
        assert again.returncode == 0, again.stdout + again.stderr
        assert check_campaign(open_campaign(disk / "c")) == []
        assert all(one.ending == "finished" for one in open_campaign(disk / "c").contents().evaluations)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_planner_and_reviewers_leave_their_marks_and_refuse_nothing(tmp_path: Path) -> None:
    settings = ("roles=large_model", "roles.summariser_enabled=false", "llm.context_tokens=8192")
    answer = arch_search("run", *SMALL, *settings, cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    contents = archive(tmp_path)
    written = {one.candidate.id: one for one in contents.tries if one.candidate and one.proposal.reply_sha256}
    assert {one.proposal.arm for one in written.values()} == {"evolve", "best_of_n"}
    for one in written.values():
        writing, planned = one.proposal.writing, one.proposal.arm == "evolve" and one.proposal.generation > 1
        assert writing is not None
        assert any(key.endswith("/planner") for key in writing.calls) is planned
        assert writing.prompt_tokens > 0
    for one in contents.candidates:
        checks = [verdict.check for verdict in one.verdicts]
        assert checks.count("review_novelty") == checks.count("review_code") == int(one.id in written)

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_campaign import SMALL, arch_search

from arch_search.analysis.costs import Budget
from arch_search.campaign import Campaign, start_or_continue
from arch_search.commands.status import status
from arch_search.lease import driver_lease
from arch_search.settings import load_config
from arch_search.sighting import ArrayLine, Sighting, array_lines, leave_sighting, read_sighting
from arch_search.stopping import request_stop
from slurm.units import ArrayJob, Submission, UnitState

UNITS = tuple(f"g0000-u{index:04d}" for index in range(4))
CONTRACT = {
    "dir", "campaign", "uuid", "generation", "generations_total", "finished", "tasks", "metric", "confidence", "best",
    "verdicts", "tokens", "seconds_left", "proposed", "admitted", "trainings_done", "trainings_planned",
    "trainings_failed", "report", "budget", "driver", "model_server", "arrays", "seen_unix", "stopped_by",
}  # fmt: skip


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    return campaign_in(tmp_path)


def campaign_in(folder: Path, *overrides: str) -> Campaign:
    config = load_config([*SMALL, f"campaign.dir={folder / 'c'}", *overrides])
    campaign = start_or_continue(config, command=["test"], base=folder)
    campaign.journal.close()
    return campaign


def sighting_of(**changes: object) -> Sighting:
    line = ArrayLine(
        job_id="4711", elements=4, timeout_min=120, states={"waiting": 3, "running": 1}, notes={"waits: Priority": 3}
    )
    budget = Budget(unit="GPU-hours", gpu_hours=1.0, core_hours=4.0, by_outcome={"finished": 1.0}, limit=7.0)
    seen = Sighting(unix=time.time() - 30, generation=0, round=1, lines=(line,), budget=budget)
    return replace(seen, **changes)  # type: ignore[arg-type]


def submission_of(campaign: Campaign) -> Submission:
    return Submission(
        kind="cluster", name="asx-smoke-g0", comment="the comment", folder=str(campaign.generation(0).units),
        submitted_unix=time.time() - 60, units=UNITS, arrays=(ArrayJob(job_id="4711", offset=0, count=4),),
    )  # fmt: skip


def files_under(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_json_has_every_key_of_the_contract(campaign: Campaign) -> None:
    facts = status(campaign)
    assert set(facts) >= CONTRACT
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_arrays_are_shown_as_the_driver_saw_them_with_the_age(campaign: Campaign) -> None:
    leave_sighting(campaign.paths.sighting, sighting_of(), before=None)
    facts = status(campaign)
    assert facts["arrays"][0]["states"] == {"waiting": 3, "running": 1}
    assert facts["arrays"][0]["notes"] == {"waits: Priority": 3}
    assert "30 s ago" in facts["seen"]


def test_what_was_seen_in_an_earlier_generation_is_not_shown(campaign: Campaign) -> None:
    leave_sighting(campaign.paths.sighting, sighting_of(generation=3), before=None)
    assert status(campaign)["arrays"] == []


def test_the_limit_shown_is_that_of_the_last_driver(campaign: Campaign) -> None:
    leave_sighting(campaign.paths.sighting, sighting_of(), before=None)
    assert status(campaign)["budget"]["limit"] == 7.0


def test_a_damaged_sighting_counts_as_none(campaign: Campaign) -> None:
    campaign.paths.sighting.write_text('{"unix": 1}')
    assert status(campaign)["arrays"] == []


def test_an_unchanged_sighting_is_written_again_only_when_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / "sighting.json"
    first = leave_sighting(path, sighting_of(unix=100.0), before=None)
    assert leave_sighting(path, sighting_of(unix=105.0), before=first) == first
    changed = leave_sighting(path, sighting_of(unix=106.0, round=2), before=first)
    assert leave_sighting(path, sighting_of(unix=120.0, round=2), before=changed).unix == 120.0
    assert read_sighting(path) == sighting_of(unix=120.0, round=2)


def test_units_in_no_array_yet_have_a_line_of_their_own(campaign: Campaign) -> None:
    submission = submission_of(campaign)
    arrays = [ArrayJob(job_id="4711", offset=0, count=3)]
    states = dict.fromkeys(UNITS, UnitState.WAITING)
    lines = array_lines(submission, arrays, states, {UNITS[3]: "not submitted yet"}, timeout_min=5)
    assert [(line.job_id, line.elements) for line in lines] == [("4711", 3), ("", 1)]
    assert lines[1].notes == {"not submitted yet": 1}


def test_a_stop_request_a_used_up_budget_and_a_full_disk_are_named(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status(campaign)["stopped_by"] == []
    request_stop(campaign.paths, cancel=False)
    heartbeat = campaign.generation(0).unit(UNITS[0]).heartbeat
    heartbeat.parent.mkdir(parents=True)
    heartbeat.write_text(json.dumps({"task": "a-s0", "attempt": 1, "wall_s": 8 * 3600}))
    leave_sighting(campaign.paths.sighting, sighting_of(), before=None)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1_000_000})())
    reasons = status(campaign)["stopped_by"]
    assert "arch-search stop" in reasons[0]
    assert "campaign.max_gpu_hours=7: 8 core-hours are used" in reasons[1]
    assert "1 MB are free" in reasons[2]


def test_the_driver_is_named_while_it_holds_the_lease(campaign: Campaign) -> None:
    assert status(campaign)["driver"]["words"].startswith("none; to go on: arch-search run")
    with driver_lease(campaign.paths, lease_s=60):
        driver = status(campaign)["driver"]
    assert driver["running"] is True
    assert f"pid {os.getpid()}" in driver["words"]


def test_a_driver_that_was_killed_is_not_taken_for_one_that_runs(campaign: Campaign) -> None:
    code = (
        "import os, sys; from pathlib import Path; from arch_search.lease import driver_lease\n"
        "from arch_search.paths import CampaignPaths\n"
        "with driver_lease(CampaignPaths(Path(sys.argv[1])), lease_s=60): os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(campaign.paths.root)], check=False, timeout=60)
    driver = status(campaign)["driver"]
    assert driver["running"] is False
    assert "ended without a word" in driver["words"]


def test_status_writes_nothing_and_asks_slurm_nothing(
    campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fake_squeue(tmp_path, monkeypatch, "")
    leave_sighting(campaign.paths.sighting, sighting_of(), before=None)
    before = files_under(campaign.paths.root)
    status(campaign)
    assert files_under(campaign.paths.root) == before
    assert not asked.exists()


def test_asked_now_status_shows_what_squeue_says(
    campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = submission_of(campaign)
    paths = campaign.generation(0)
    paths.root.mkdir()
    paths.submission(1).write_text(json.dumps({"state": "submitted", "submission": submission.to_json()}))
    leave_sighting(campaign.paths.sighting, sighting_of(), before=None)
    rows = ("4711|0|RUNNING|None|x|the comment|.", "4711|1-3|PENDING|JobHeldUser|x|the comment|.")
    asked = fake_squeue(tmp_path, monkeypatch, "".join(f"{row}\n" for row in rows))
    facts = status(campaign, now=True)
    assert facts["arrays"][0]["states"] == {"running": 1, "held": 3}
    assert any("scontrol release" in note for note in facts["arrays"][0]["notes"])
    assert facts["seen"] == "as Slurm says now"
    assert len(asked.read_text().splitlines()) == 1


def fake_squeue(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> Path:
    """A squeue on PATH that prints a recorded answer; returns the file that gets a line for each call."""
    asked, said, program = folder / "asked", folder / "said", folder / "bin" / "squeue"
    said.write_text(answer)
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho \"$@\" >> '{asked}'\ncat '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return asked


def test_piped_output_has_no_colour_and_no_line_wider_than_a_terminal(campaign: Campaign) -> None:
    request_stop(campaign.paths, cancel=False)
    leave_sighting(campaign.paths.sighting, sighting_of(), before=None)
    root = campaign.paths.root
    shown = arch_search("status", root.name, cwd=root.parent).stdout
    assert "\x1b" not in shown
    # a line that holds the folder's own path may be longer
    assert all(len(line) <= 80 for line in shown.splitlines() if str(root) not in line)
    assert "JOBID" in shown
    assert "stands still" in shown


@pytest.mark.parametrize(("no_colour", "has_colour"), [(False, True), (True, False)])
def test_a_terminal_shows_colours_unless_told_not_to(campaign: Campaign, no_colour: bool, has_colour: bool) -> None:
    request_stop(campaign.paths, cancel=False)
    environment = {**os.environ, "TERM": "xterm-256color"} | ({"NO_COLOR": "1"} if no_colour else {})
    shown = on_a_terminal(["status", str(campaign.paths.root)], environment)
    assert ("\x1b[1;33m" in shown) is has_colour
    assert "stands still" in shown


def on_a_terminal(arguments: list[str], environment: dict[str, str]) -> str:
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "arch_search.cli", *arguments]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        try:
            while chunk := os.read(controller, 65536):
                shown += chunk
        except OSError:
            pass  # Linux says so when the other side is closed
        process.wait(timeout=60)
    os.close(controller)
    return shown.decode()


def test_a_large_campaign_takes_its_ranking_from_the_last_report(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arch_search.commands.status._MOST_TRIES_READ", -1)
    before = status(campaign)
    assert before["best"] is None
    kept = {key: before[key] for key in ("verdicts", "tokens", "trainings_failed")}
    campaign.paths.results.write_text(json.dumps({**kept, "best": None, "trainings_failed": 77}))
    assert status(campaign)["trainings_failed"] == 77

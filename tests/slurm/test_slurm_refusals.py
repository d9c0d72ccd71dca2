"""From recorded words of sbatch, sinfo and sacctmgr 22.05 to one line that names the setting and what is allowed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from slurm.errors import UnavailableError
from slurm.preflight import never_starts, why_refused
from slurm.refusals import explain, own_words
from slurm.units import Resources

SINFO = """\
main*|up|infinite|4|8000|gpu:v100:2(S:0-1)|fast,v100|4
short|up|10:00|4|8000|gpu:v100:2(S:0-1)|fast,v100|4
big|up|2-00:00:00|64|256000|(null)|(null)|2
closed|down|infinite|4|8000|(null)|(null)|4
"""
ASSOCIATIONS = "lab|limited,normal\n"
QOS = "normal|||||\nlimited|00:05:00|cpu=1|||\n"
PARTITIONS = (
    "PartitionName=main AllowAccounts=ALL AllowQos=ALL Default=YES MaxTime=UNLIMITED State=UP MaxMemPerNode=UNLIMITED\n"
    "PartitionName=short AllowAccounts=ALL AllowQos=ALL Default=NO MaxTime=00:10:00 State=UP MaxCPUsPerNode=2\n"
    "PartitionName=vip AllowAccounts=ALL AllowQos=vip Default=NO MaxTime=1-00:00:00 State=UP MaxMemPerNode=1024\n"
    "PartitionName=theirs DenyAccounts=lab Default=NO MaxTime=1-00:00:00 State=UP\n"
)
PLAIN = Resources(cpus_per_task=1, memory_gb=1.0, timeout_min=5)
POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


def _ask(command: list[str]) -> str:
    if command[0] == "sinfo":
        return SINFO
    return QOS if "qos" in command else ASSOCIATIONS


def _silent(command: list[str]) -> str:
    raise UnavailableError(f"{command[0]} is not on PATH")


@pytest.mark.parametrize(
    "words, asked, expected",
    [
        ("Invalid partition name specified", {"partition": "nope"}, ["slurm.partition=nope", "main (up to infinite)"]),
        ("Required partition not available (inactive or drain)", {"partition": "closed"}, ["closed (down)"]),
        ("Invalid account or account/partition combination specified", {"account": "x"}, ["slurm.account=x", "lab"]),
        ("Invalid qos specification", {"qos": "vip"}, ["slurm.qos=vip", "limited, normal"]),
        ("Invalid generic resource (gres) specification", {"gres": "tape:1"}, ["slurm.gres=tape:1", "gpu:v100:2"]),
        ("Invalid generic resource (gres) specification", {"gpus_per_task": "1"}, ["slurm.gpus_per_task=1"]),
        ("Invalid feature specification", {"constraint": "a100"}, ["slurm.constraint=a100", "fast,v100 (main, short)"]),
        ("Requested time limit is invalid (missing or exceeds it)", {}, ["slurm.timeout_min=5", "10:00 (short)"]),
        (f"QOSMaxWallDurationPerJobLimit\nsbatch: error: {POLICY}", {}, ["timeout_min=5", "limited maxwall=00:05:00"]),
        (f"QOSMaxCpuPerJobLimit\nsbatch: error: {POLICY}", {}, ["slurm.cpus_per_task=1", "maxtres=cpu=1"]),
        (f"QOSMaxSubmitJobPerUserLimit\nsbatch: error: {POLICY}", {}, ["slurm.max_submitted"]),
        ("Memory required by task is not available", {}, ["slurm.memory_gb=1", "7.812 GB (closed, main, short)"]),
        ("More processors requested than permitted", {}, ["slurm.cpus_per_task=1", "64 cores (big)"]),
        ("Node count specification invalid", {"extra_sbatch": {"nodes": 9}}, ["slurm.extra_sbatch.nodes=9", "4 (cl"]),
        ("Requested reservation is invalid", {"extra_sbatch": {"reservation": "r"}}, ["extra_sbatch.reservation=r"]),
        ("Invalid node name specified", {"extra_sbatch": {"exclude": "zz"}}, ["slurm.extra_sbatch.exclude=zz"]),
        ("Invalid wckey specification", {"extra_sbatch": {"wckey": "k"}}, ["slurm.extra_sbatch.wckey=k"]),
        ("unrecognized option '--bogus=1'", {"extra_sbatch": {"bogus": 1}}, ["slurm.extra_sbatch.bogus=1"]),
        ("Invalid --mail-type specification", {"mail_type": "FROB"}, ["slurm.mail_type=FROB"]),
    ],
)  # fmt: skip
def test_a_refusal_names_slurms_words_the_setting_and_what_is_allowed(
    words: str, asked: dict[str, str], expected: list[str]
) -> None:
    line = explain(f"sbatch: error: {words}\n", replace(PLAIN, **asked), _ask)  # type: ignore[arg-type]
    assert "\n" not in line
    assert words.splitlines()[0] in line
    for part in expected:
        assert part in line


UNSATISFIED = "allocation failure: Requested node configuration is not available"


@pytest.mark.parametrize(
    "asked, expected",
    [
        ({"gres": "gpu:a100:1"}, "slurm.gres=gpu:a100:1: "),
        ({"gres": "gpu:v100:3"}, "slurm.gres=gpu:v100:3: "),
        ({"gres": "gpu:2,tape:1"}, "slurm.gres=gpu:2,tape:1: "),
        ({"gpus_per_task": "a100:1"}, "slurm.gpus_per_task=a100:1: "),
        ({"memory_gb": 64.0}, "slurm.memory_gb=64: "),
        ({"cpus_per_task": 8}, "slurm.cpus_per_task=8: "),
        ({"partition": "big", "gres": "gpu:1"}, "slurm.gres=gpu:1: "),
    ],
)
def test_where_slurm_names_no_setting_the_first_that_no_node_can_give_is_found(
    asked: dict[str, str], expected: str
) -> None:
    line = explain(UNSATISFIED, replace(PLAIN, **asked), _ask)  # type: ignore[arg-type]
    assert line.startswith(f"Slurm refuses {expected}")


def test_a_combination_that_no_node_has_is_told_with_the_nodes_there_are() -> None:
    line = explain(UNSATISFIED, replace(PLAIN, partition="main", memory_gb=7.0, cpus_per_task=4), _ask)
    assert "slurm.cpus_per_task=4, slurm.memory_gb=7" in line
    assert "4 x 4 cores 8000 MB gpu:v100:2" in line


def test_words_that_are_not_known_are_passed_on() -> None:
    message = "sbatch: error: Our site: buy more hours\nsbatch: error: Batch job submission failed: Unspecified error\n"
    assert explain(message, PLAIN, _ask) == "Slurm refuses the request: Our site: buy more hours: Unspecified error"
    assert "no reason given" in explain("", PLAIN, _ask)


def test_sentences_that_sbatch_says_twice_are_told_once() -> None:
    assert own_words("sbatch: error: Invalid qos\nallocation failure: Invalid qos\n") == "Invalid qos"


def test_a_site_without_sacctmgr_still_gets_slurms_words_and_the_setting() -> None:
    line = explain("Invalid account or account/partition combination specified", replace(PLAIN, account="x"), _silent)
    assert "slurm.account=x: Invalid account" in line
    assert "sacctmgr is not on PATH" in line


def test_settings_of_another_job_are_named_with_their_own_group() -> None:
    line = explain("Invalid qos specification", replace(PLAIN, qos="x"), _ask, group="llm.job")
    assert "llm.job.qos=x" in line


@pytest.mark.parametrize(
    "asked, expected",
    [
        ({}, None),
        ({"partition": "short", "timeout_min": 60}, "slurm.timeout_min=60: partition short allows at most 10 minutes"),
        ({"partition": "short,main", "timeout_min": 60}, None),
        ({"partition": "short,vip", "timeout_min": 2000}, "partition vip allows at most 1440 minutes"),
        ({"partition": "vip", "qos": "normal"}, "slurm.qos=normal: partition vip allows only vip"),
        ({"partition": "theirs", "account": "lab"}, "slurm.account=lab: partition theirs denies lab"),
        ({"partition": "vip", "memory_gb": 2.0}, "slurm.memory_gb=2: partition vip allows at most 1 GB"),
        ({"partition": "short", "cpus_per_task": 3}, "slurm.cpus_per_task=3: partition short allows at most 2 cores"),
    ],
)
def test_what_slurm_would_accept_and_never_start_is_found_in_the_limits_of_the_partitions(
    asked: dict[str, str], expected: str | None
) -> None:
    line = never_starts(PARTITIONS, replace(PLAIN, **asked))  # type: ignore[arg-type]
    assert line is None if expected is None else expected in (line or "")


def test_without_sbatch_nobody_knows_whether_a_request_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="not on PATH"):
        why_refused(PLAIN)


def test_a_controller_that_is_away_is_no_refusal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sbatch = tmp_path / "sbatch"
    said = "allocation failure: Unable to contact slurm controller (connect failure)"
    sbatch.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UnavailableError, match="Unable to contact"):
        why_refused(PLAIN)

"""Limits of a site, from the recorded text of a real slurmctld."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm import site
from slurm.errors import UnavailableError

CONFIG = (Path(__file__).parent / "recorded" / "scontrol_config.txt").read_text()


def test_limits_are_read_from_a_recorded_configuration() -> None:
    limits = site.parse_config(CONFIG)
    assert limits.cluster == "asx"
    assert limits.version == "22.05.8"
    assert limits.max_array_size == 32
    assert limits.accounting
    assert limits.min_job_age_s == 300


def test_the_smaller_of_two_array_limits_counts() -> None:
    text = CONFIG.replace("bf_interval=2", "bf_interval=2,max_array_tasks=7")
    assert site.parse_config(text).max_array_size == 7


def test_a_site_without_slurmdbd_has_no_accounting() -> None:
    assert not site.parse_config(CONFIG.replace("accounting_storage/slurmdbd", "accounting_storage/none")).accounting


def test_an_answer_without_limits_is_refused() -> None:
    with pytest.raises(UnavailableError, match="MaxArraySize"):
        site.parse_config("Slurmctld(primary) at n1 is DOWN\n")


def test_a_machine_without_slurm_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "sbatch" in (site.why_unavailable() or "")
    assert not site.is_available()


def test_a_silent_controller_makes_slurm_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for program in site.PROGRAMS:
        (tmp_path / program).write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "Unable to contact slurm controller" in (site.why_unavailable() or "")


def test_the_smallest_limit_of_association_and_qos_counts_and_is_named() -> None:
    rows = site.parse_associations("lab|normal|500|40\nother|low||\n")
    every_qos = site.parse_qos("normal|200|\nlow||3\n")
    limits = site.tighten(site.parse_config(CONFIG), [*rows, *every_qos.values()])
    assert (limits.max_submit_jobs, limits.submit_source, limits.max_jobs) == (200, "qos normal", 3)


def test_no_limit_of_the_accounting_is_no_limit() -> None:
    limits = site.tighten(site.parse_config(CONFIG), site.parse_associations("lab|||\n"))
    assert limits.max_submit_jobs is None
    assert limits.max_jobs is None


def test_the_qos_of_the_chosen_or_the_default_partition_counts() -> None:
    text = (
        "PartitionName=main AllowGroups=ALL Default=YES QoS=N/A MaxTime=UNLIMITED\n"
        "PartitionName=short AllowGroups=ALL Default=NO QoS=quick MaxTime=60\n"
    )
    assert site.parse_partition_qos(text, None) == ()
    assert site.parse_partition_qos(text, "main,short") == ("quick",)


@pytest.mark.parametrize("sacctmgr", ["exit 1", "echo 'You are not running a supported accounting_storage plugin'"])
def test_a_site_where_sacctmgr_tells_nothing_has_no_known_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sacctmgr: str
) -> None:
    (tmp_path / "sacctmgr").write_text(f"#!/bin/sh\n{sacctmgr}\n")
    (tmp_path / "sacctmgr").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    limits = site.parse_config(CONFIG)
    assert site.read_user_limits(limits) == limits


def test_the_account_and_qos_of_the_jobs_are_the_ones_that_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = {
        "associations": "lab|normal|500|\\nbig|low|50|\\n", "qos": "normal|90|\\nlow|70|\\ntop|30|\\n", "user": "lab\\n"
    }  # fmt: skip
    cases = "".join(f"*' show {word} '*) printf '{text}';;\n" for word, text in answers.items())
    (tmp_path / "sacctmgr").write_text(f'#!/bin/sh\ncase "$* " in\n{cases}esac\n')
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho PartitionName=main Default=YES QoS=N/A\n")
    for program in ("sacctmgr", "scontrol"):
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    limits = site.parse_config(CONFIG)
    assert site.read_user_limits(limits).submit_source == "qos normal"
    assert site.read_user_limits(limits, account="big").submit_source == "association big"
    assert site.read_user_limits(limits, account="big", qos="top").max_submit_jobs == 30

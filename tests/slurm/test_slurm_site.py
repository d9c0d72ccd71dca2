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

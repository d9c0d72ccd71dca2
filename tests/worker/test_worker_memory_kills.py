"""Kills for memory, as the two versions of control groups tell them."""

from __future__ import annotations

from pathlib import Path

import pytest

from arch_search.worker.memory_kills import memory_kills


@pytest.mark.parametrize(
    ("membership", "file", "text"),
    [
        ("0::/system.slice/job_7\n", "system.slice/job_7/memory.events", "low 0\nmax 9\noom 3\noom_kill 2\n"),
        (
            "5:memory:/slurm_n1/job_7\n1:cpu,cpuacct:/x\n0::/\n",
            "memory/slurm_n1/job_7/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_the_kills_of_the_own_control_group_are_counted(tmp_path: Path, membership: str, file: str, text: str) -> None:
    (tmp_path / "cgroup").write_text(membership)
    (tmp_path / "fs" / file).parent.mkdir(parents=True)
    (tmp_path / "fs" / file).write_text(text)
    assert memory_kills(membership=tmp_path / "cgroup", root=tmp_path / "fs") == 2


@pytest.mark.parametrize("membership", ["", "0::/gone\n", "3:cpu:/x\n"])
def test_where_nothing_tells_there_was_none(tmp_path: Path, membership: str) -> None:
    (tmp_path / "cgroup").write_text(membership)
    assert memory_kills(membership=tmp_path / "cgroup", root=tmp_path / "fs") == 0
    assert memory_kills(membership=tmp_path / "missing", root=tmp_path / "fs") == 0

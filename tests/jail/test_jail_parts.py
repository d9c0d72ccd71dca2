"""The parts around a jailed run: choosing a rung, reading results back, freeing names, showing Python, counting."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arch_search.errors import JailError
from arch_search.jail import Limits, best_rung, jailed_python, read_from_jail, run, rungs
from arch_search.jail.files import free_name
from arch_search.jail.watch import folder_use


def test_the_best_rung_comes_first_and_off_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: set[str] = set()
    monkeypatch.setattr(rungs, "why_not", lambda rung: f"no {rung} here" if rung in broken else "")

    assert best_rung("auto") == "bwrap"
    broken.add("bwrap")
    assert best_rung("auto") == "landlock"
    broken.add("landlock")
    with pytest.raises(JailError, match=r"bwrap: no bwrap here; landlock: no landlock here.*jail=off"):
        best_rung("auto")
    assert best_rung("off") == "off"


def test_a_rung_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(JailError, match="known: auto, bwrap, landlock, off"):
        best_rung("docker")


def test_the_jail_is_told_which_gpus_are_its_own_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("SOME_TOKEN", "secret")

    kept = run._kept_variables()

    assert kept["CUDA_VISIBLE_DEVICES"] == "3"
    assert "SOME_TOKEN" not in kept


def test_a_result_is_read_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "report").write_bytes(b"1234")

    assert read_from_jail(tmp_path, "report", max_bytes=4) == b"1234"


def test_a_result_that_is_too_large_missing_or_no_plain_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"12345")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")

    for name in ("large", "missing", "link", "folder", "pipe", "../secret", ".."):
        with pytest.raises(JailError):
            read_from_jail(tmp_path, name, max_bytes=4)


def test_a_name_is_made_free_of_whatever_a_program_has_put_there(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")

    for name in ("link", "file", "folder", "pipe", "missing"):
        free_name(tmp_path / name)

    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_the_count_of_a_folder_takes_no_file_twice_and_follows_no_link(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").write_bytes(bytes(3_000_000))
    (folder / "around").symlink_to(folder)
    (folder / "elsewhere").symlink_to("/usr")

    use = folder_use(folder, enough=100, root=os.getpid())

    assert (use.files, use.is_hidden) == (4, False)
    assert use.disk_mb == pytest.approx(3_000_000 / 2**20, rel=0.05)


def test_addresses_are_limited_only_where_no_accelerator_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(wall_s=1, cpu_s=1, memory_gb=1, file_mb=1, processes=1)
    monkeypatch.setattr(rungs, "_ACCELERATORS", ("/dev/none-such*",))
    without = run._rlimits(limits)
    monkeypatch.setattr(rungs, "_ACCELERATORS", ("/dev/null",))
    with_one = run._rlimits(limits)

    assert without["RLIMIT_AS"] == 20 * 2**30
    assert without.keys() - with_one.keys() == {"RLIMIT_AS"}


def test_what_a_program_left_in_place_of_the_import_links_is_not_followed(tmp_path: Path) -> None:
    precious, workdir = tmp_path / "precious", tmp_path / "work"
    precious.mkdir()
    (precious / "arch_search").write_text("mine")
    workdir.mkdir()
    (workdir / ".imports").symlink_to(precious)

    jailed_python(workdir)

    assert (precious / "arch_search").read_text() == "mine"
    assert (workdir / ".imports" / "arch_search").is_symlink()


def test_an_interpreter_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(JailError, match="/no/python does not answer"):
        jailed_python(tmp_path, python="/no/python")

"""Durable files: whole after a kill, clear errors when the disk is full, nothing left behind."""

from __future__ import annotations

import os
import random
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cognition_db.experience import files
from cognition_db.experience.errors import NoSpaceError, StoreError
from cognition_db.experience.files import read_json, remove_stale_temporaries, write_atomic
from cognition_db.experience.journal import Journal, read


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], capture_output=True, text=True, timeout=20
    )
    if mounted.returncode != 0:
        pytest.skip(f"can't mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=20)


def test_written_file_holds_the_bytes_and_its_parents_are_made(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "c.bin", b"\0\1")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"\0\1"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c.bin"]


def test_mode_keeps_a_key_file_private(tmp_path: Path) -> None:
    write_atomic(tmp_path / "key", b"secret", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_content(
    tmp_path: Path, killed_after: Callable[..., int]
) -> None:
    path = tmp_path / "state.bin"

    def work(start: int) -> Iterator[None]:
        step = start
        while True:
            step += 1
            write_atomic(path, step.to_bytes(4, "big") * 50_000)
            yield None

    for _ in range(25):
        path.unlink(missing_ok=True)
        acknowledged = killed_after(work, random.uniform(0, 0.03))
        content = path.read_bytes()
        step = int.from_bytes(content[:4], "big")
        assert content == step.to_bytes(4, "big") * 50_000
        assert step >= acknowledged
    remove_stale_temporaries(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["state.bin"]


def test_temporary_file_of_a_living_writer_stays_and_of_a_foreign_host_goes_after_a_day(tmp_path: Path) -> None:
    mine = tmp_path / f".a.json.{files._host()}.{os.getpid()}.0123abcd.tmp"
    foreign = tmp_path / ".a.json.elsewhere.1.0123abcd.tmp"
    other = tmp_path / ".notes.tmp"
    for path in (mine, foreign, other):
        path.write_bytes(b"x")
    now = foreign.stat().st_mtime
    assert remove_stale_temporaries(tmp_path, clock=lambda: now + 80_000) == ()
    os.utime(mine, (now + 80_000, now + 80_000))
    assert remove_stale_temporaries(tmp_path, clock=lambda: now + 90_000) == (foreign,)
    assert mine.exists()
    assert other.exists()


def test_full_disk_is_named_and_the_old_content_stays(small_disk: Path) -> None:
    path = small_disk / "state.bin"
    write_atomic(path, b"old")
    with pytest.raises(NoSpaceError, match=r"state\.bin: no space left.*200000 bytes"):
        write_atomic(path, b"n" * 200_000)
    assert path.read_bytes() == b"old"
    assert [item.name for item in small_disk.iterdir()] == ["state.bin"]


def test_journal_on_a_full_disk_keeps_every_acknowledged_entry_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 80_000)
    path = small_disk / "journal.jsonl"
    journal = Journal(path)
    acknowledged: list[int] = []

    def fill() -> None:
        while True:
            acknowledged.append(journal.append("step", {"text": "y" * 1500}).seq)

    with pytest.raises(NoSpaceError, match=r"journal\.jsonl: no space left"):
        fill()
    assert len(acknowledged) > 5
    assert [entry.seq for entry in read(path).entries] == acknowledged
    assert read(path).torn_bytes == 0
    ballast.unlink()
    with Journal(path) as again:
        assert again.append("step", {}).seq == len(acknowledged) + 1


def test_file_size_limit_is_an_error_of_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """The same as a full disk, for those who may not mount one."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
            write_atomic(tmp_path / "state.bin", b"n" * 20_000)
        except NoSpaceError as error:
            code = 0 if "file size limit" in str(error) and "\n" not in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(StoreError, match=r"state: can't be written: Is a directory"):
        write_atomic(tmp_path / "state", b"x")
    assert [item.name for item in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1] [2]"])
def test_a_file_that_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"a\.json: not JSON"):
        read_json(tmp_path / "a.json")


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"a\.json: can't be read: No such file"):
        read_json(tmp_path / "a.json")

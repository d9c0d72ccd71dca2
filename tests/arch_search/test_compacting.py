"""Closed generations become few files; shards are still checked, and a late worker brings nothing back."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from arch_search.compacting import compact, shards_folder
from arch_search.paths import GenerationPaths


@pytest.fixture
def paths(tmp_path: Path) -> GenerationPaths:
    """What a generation of two units has left."""
    paths = GenerationPaths(tmp_path / "gen-0001")
    for unit in ("g0001-u0000", "g0001-u0001"):
        paths.shards.mkdir(parents=True, exist_ok=True)
        paths.shard(unit, 1).write_bytes(unit.encode() * 100)
        paths.unit(unit).root.mkdir(parents=True)
        paths.unit(unit).log.write_text(f"log of {unit}")
    return paths


def test_units_and_shards_become_one_file_each_with_all_they_held(paths: GenerationPaths) -> None:
    compact(paths)
    assert sorted(path.name for path in paths.root.iterdir()) == ["shards.zip", "units.zip"]
    with zipfile.ZipFile(paths.packed_units) as packed:
        assert packed.read("g0001-u0001/log.txt") == b"log of g0001-u0001"
    with shards_folder(paths) as folder:
        assert (folder / "g0001-u0000-a1.h5").read_bytes() == b"g0001-u0000" * 100


def test_a_damaged_file_is_one_kind_of_error_or_harmless(paths: GenerationPaths) -> None:
    compact(paths)
    good = paths.packed_shards.read_bytes()
    outcomes = set()
    for place in range(len(good)):
        paths.packed_shards.write_bytes(good[:place] + bytes([good[place] ^ 0x11]) + good[place + 1 :])
        try:
            with shards_folder(paths) as folder:
                held = [path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()]
            outcomes.add("same" if held == [b"g0001-u0000" * 100, b"g0001-u0001" * 100] else "less")
        except zipfile.BadZipFile:
            outcomes.add("refused")
    assert {"refused", "same"} <= outcomes


def test_what_a_kill_in_the_middle_left_is_finished_and_a_late_file_is_removed(paths: GenerationPaths) -> None:
    compact(paths)
    before = paths.packed_shards.read_bytes()
    paths.shard("g0001-u0000", 2).parent.mkdir()
    paths.shard("g0001-u0000", 2).write_bytes(b"late")
    (paths.root / ".units.zip.tmp").write_bytes(b"half a zip")
    compact(paths)
    assert not paths.shards.exists()
    assert paths.packed_shards.read_bytes() == before


def test_a_folder_is_left_alone_where_its_file_can_not_be_written(paths: GenerationPaths) -> None:
    (paths.root / ".units.zip.tmp").mkdir()  # as good as a full disk, for root too
    with pytest.raises(Exception, match=r"units\.zip: can't be written"):
        compact(paths)
    assert paths.unit("g0001-u0000").log.exists()
    assert not paths.packed_units.exists()

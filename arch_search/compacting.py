"""Closed generations as few files, since network disks of clusters count them: a training leaves eight.

What its units left (records, logs, claims) and its shards become one zip file each; fsck reads the shards from there.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from arch_search.paths import GenerationPaths
from cognition_db.experience.files import failed_write, sync_folder


def compact(paths: GenerationPaths) -> None:
    """Replace the folders of a closed generation by zip files; doing it again changes nothing.

    Raises:
        NoSpaceError, StoreError: the disk is full or read-only; the folders are there as before.
    """
    for folder, packed in ((paths.units, paths.packed_units), (paths.shards, paths.packed_shards)):
        if not folder.exists():
            continue
        if not packed.exists():
            _pack(folder, packed)
        # also what a worker wrote that did not know that its generation is closed
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def shards_folder(paths: GenerationPaths) -> Iterator[Path]:
    """The folder of a generation's shards; those of a compacted one are unpacked for as long as the block lasts.

    Raises:
        zipfile.BadZipFile: the file is damaged.
    """
    if not paths.packed_shards.exists():
        yield paths.shards
        return
    with TemporaryDirectory(prefix="arch-search-shards-") as name:
        _unpack(paths.packed_shards, name)
        yield Path(name)


def _unpack(packed: Path, folder: str) -> None:
    try:
        with zipfile.ZipFile(packed) as members:
            members.extractall(folder)
    except Exception as error:  # damaged bytes lead to errors of zlib, struct, the decoder of names, and others
        raise zipfile.BadZipFile(str(error)) from error


def _pack(folder: Path, packed: Path) -> None:
    # the driver alone writes it, so that a name left by a killed one is written over
    temporary = packed.with_name(f".{packed.name}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as out:
            for path in sorted(folder.rglob("*")):
                with suppress(FileNotFoundError):  # of a worker that is about to leave
                    if path.is_file() and not path.is_symlink():
                        out.write(path, path.relative_to(folder))
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, packed)
        sync_folder(packed.parent)
    except OSError as error:
        raise failed_write(packed, error, size=0) from error

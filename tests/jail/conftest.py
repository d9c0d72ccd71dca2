"""Who runs the probes of this folder: the user of the tests, and an ordinary user where the tests run as root."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.owner import Owner, choose_owner, usable_python


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordinary:
    """An ordinary user, a python that this user can run, and a folder of the user's own."""

    owner: Owner
    python: str
    folder: Path


@pytest.fixture(scope="session")
def ordinary() -> Iterator[Ordinary]:
    """Skips where the tests run as an ordinary user anyway, and where none can be made that could run the project."""
    folder = Path(tempfile.mkdtemp(prefix="arch-search-jail-"))
    owner = choose_owner(folder)
    try:
        if not owner.made:
            pytest.skip(f"no ordinary user beside that of the tests: {owner.why}")
        shutil.chown(folder, owner.uid, owner.gid)
        folder.chmod(0o755)
        yield Ordinary(owner=owner, python=usable_python(owner, folder, needed="arch_search"), folder=folder)
    finally:
        if owner.made:
            subprocess.run(["userdel", owner.name], capture_output=True, check=False)
        shutil.rmtree(folder)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose name leaves room for the names of sockets."""
    with tempfile.TemporaryDirectory(prefix="arch-search-jail-") as folder:
        yield Path(folder)

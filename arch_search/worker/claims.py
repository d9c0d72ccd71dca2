"""Claims: every start of a supervisor takes the next number of its unit, and the newest start owns the unit.

The lock of a unit may hold on one machine only, and a machine that Slurm has given up may run on. A start that sees a
newer claim leaves; until it has seen it, both work in folders of their own, and a record gets its name only once.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from arch_search.paths import UnitPaths
from cognition_db.experience.files import failed_write, sync_folder

_PREFIX = "start-"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Start:
    """One start of a supervisor: `number` counts from 1 within the attempt of the unit. A greater one supersedes."""

    attempt: int
    number: int

    @property
    def name(self) -> str:
        return f"a{self.attempt}-{self.number:03d}"

    @classmethod
    def parse(cls, name: str) -> Start | None:
        match = re.fullmatch(r"a(\d+)-(\d+)", name)
        return None if match is None else cls(attempt=int(match[1]), number=int(match[2]))


def claim(paths: UnitPaths, *, attempt: int) -> Start:
    """The next start of this attempt, made known durably; raises StoreError."""
    start = Start(
        attempt=attempt, number=1 + max((one.number for one in _starts(paths) if one.attempt == attempt), default=0)
    )
    while not _is_made(paths.claim(start.name)):
        start = Start(attempt=attempt, number=start.number + 1)
    return start


def is_superseded(paths: UnitPaths, start: Start) -> bool:
    """Whether a newer start owns the unit, or nobody wants the unit any more; False where the folder can't be read."""
    try:
        return any(other > start for other in _starts(paths))
    except FileNotFoundError:
        return True
    except OSError:
        return False


def publish(fresh: Path, path: Path) -> bool:
    """Give a finished file its name; False where the name is taken, whose file then stays. `fresh` is gone after it.

    Raises:
        StoreError: the file system refused.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(fresh, path)
    except FileExistsError:
        # a network file system may repeat a call that it has carried out
        return os.path.samefile(fresh, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise failed_write(path, error, size=0) from error
        # a file system without hard links between folders: the claim, checked just before, is what protects the name
        os.replace(fresh, path)
    finally:
        with suppress(OSError):
            fresh.unlink()
    sync_folder(path.parent)
    return True


def _starts(paths: UnitPaths) -> list[Start]:
    names = (name.removeprefix(_PREFIX) for name in os.listdir(paths.root) if name.startswith(_PREFIX))
    return [start for start in map(Start.parse, names) if start is not None]


def _is_made(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        sync_folder(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise failed_write(path, error, size=0) from error
    return True

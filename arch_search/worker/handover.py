"""Handing a task over: each start works in a folder of its own, which begins with the checkpoints of the one before."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from arch_search.paths import UnitPaths
from arch_search.worker.claims import Start
from arch_search.worker.folder import TaskFolder
from cognition_db.experience.errors import NoSpaceError
from cognition_db.experience.files import failed_write


def take_over(paths: UnitPaths, key: str, start: Start) -> TaskFolder:
    """The working folder of this start; those of older starts are gone, so that what still runs there ends.

    Raises:
        NoSpaceError, StoreError: the folder could not be made.
    """
    task, mine = paths.task(key), TaskFolder(paths.working(key, start.name))
    fresh = TaskFolder(task / f".{start.name}")
    try:
        fresh.root.mkdir(parents=True, exist_ok=True)
        older = _older(task, start)
        if older:
            _hand_over(TaskFolder(task / older[-1].name), fresh)
        # in one step: a start that is killed in between leaves the older folder as the one to go on from
        fresh.root.rename(mine.root)
    except OSError as error:
        raise failed_write(mine.root, error, size=0) from error
    for one in older:
        shutil.rmtree(task / one.name, ignore_errors=True)
    return mine


def _older(task: Path, start: Start) -> list[Start]:
    found = (Start.parse(path.name) for path in task.iterdir() if path.is_dir())
    return sorted(one for one in found if one is not None and one < start)


def _hand_over(old: TaskFolder, fresh: TaskFolder) -> None:
    # the old child may still write; in this order a result comes with everything that it speaks of
    for path in (
        old.result,
        old.prefix_nll,
        old.heldout_nll,
        old.recall_answers,
        old.checkpoint("language_model"),
        old.checkpoint("recall"),
    ):
        with suppress(FileNotFoundError):
            _link(path, fresh.root / path.name)


def _link(source: Path, target: Path) -> None:
    """The same file under a second name; a child never writes in place, and a link it planted is not followed."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        # not readable by us: the training then starts afresh
        return
    with open(descriptor, "rb") as old:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        try:
            with target.open("xb") as new:
                shutil.copyfileobj(old, new, 1 << 24)
        except OSError as error:
            failure = failed_write(target, error, size=os.fstat(descriptor).st_size)
            if isinstance(failure, NoSpaceError):
                raise failure from error
            with suppress(OSError):
                target.unlink()

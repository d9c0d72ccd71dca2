"""What a jailed program left in its folder: the one place where its bytes come out, and how a name is made free."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from uuid import uuid4

from arch_search.errors import JailError


def read_from_jail(folder: Path, name: str, *, max_bytes: int) -> bytes:
    """The content of `folder/name`, which an untrusted program may have replaced by anything.

    Links are not followed and devices or pipes are not read, so the program cannot point at a file of the user.

    Raises:
        JailError: no plain file of that name, or more than `max_bytes` in it; one line.
    """
    if os.path.basename(name) != name or name in ("", ".", ".."):
        raise JailError(f"{name!r} is not a plain file name")
    try:
        # O_NONBLOCK: opening a pipe that nobody writes must not wait
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise JailError(f"the jailed program left no readable file {name} ({error.strerror})") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise JailError(f"the jailed program made {name} something other than a plain file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(data) > max_bytes:
        raise JailError(f"the jailed program wrote more than {max_bytes} bytes into {name}")
    return data


def free_name(path: Path) -> None:
    """Leaves nothing under the name `path`, whatever an untrusted program has put there.

    What cannot be removed, such as a folder that its owner may not list, stays beside it under a name of its own.
    """
    if not os.path.lexists(path):
        return
    aside = path.with_name(f"{path.name}-{uuid4().hex}")
    os.replace(path, aside)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink()

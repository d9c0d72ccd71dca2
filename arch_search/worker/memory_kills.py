"""Whether the kernel killed something of this job for its memory: the jail sees only that its child was killed."""

from __future__ import annotations

import re
from pathlib import Path

_MEMBERSHIP = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def memory_kills(*, membership: Path = _MEMBERSHIP, root: Path = _ROOT) -> int:
    """Processes of this process's control group that the kernel has killed for memory so far; 0 where none tells.

    Reads `memory.events` (version 2) or `memory.oom_control` (version 1).
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            file = root / path.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            file = root / "memory" / path.lstrip("/") / "memory.oom_control"
        else:
            continue
        found = re.search(r"^oom_kill (\d+)$", _text(file), re.MULTILINE)
        if found:
            return int(found[1])
    return 0


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""

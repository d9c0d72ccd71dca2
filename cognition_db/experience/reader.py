"""The process behind guard.check_files: goes through files given as arguments and prints one JSON line for each."""

from __future__ import annotations

import hashlib
import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from cognition_db.experience import archive, shard
from cognition_db.experience.columns import kind_of
from cognition_db.experience.errors import StoreError

_PARSERS = {shard.KIND: shard.parse_shard, archive.KIND: archive.parse_archive}
_BASE_BYTES = 4 << 30
# a list of Python floats takes four times its bytes on disk, and text passes through several copies
_BYTES_PER_FILE_BYTE = 30


def main(names: Sequence[str]) -> None:
    """Print "ready" once the imports are done, then the judgement of each file in the order given."""
    print("ready", flush=True)
    for name in names:
        sha256, problem = judge(Path(name))
        print(json.dumps({"sha256": sha256, "problem": problem}), flush=True)


def judge(path: Path) -> tuple[str, str]:
    """sha256 of the bytes and what is wrong with them; the problem is empty for a whole shard or archive."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return "", f"can't be read: {error.strerror}"
    sha256 = hashlib.sha256(data).hexdigest()
    # a damaged size must end in a refused allocation, not in a machine without memory
    _, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
    wanted = _BASE_BYTES + _BYTES_PER_FILE_BYTE * len(data)
    soft_limit = wanted if hard_limit == resource.RLIM_INFINITY else min(wanted, hard_limit)
    resource.setrlimit(resource.RLIMIT_AS, (soft_limit, hard_limit))
    try:
        kind = kind_of(data)
        if kind not in _PARSERS:
            return sha256, f"kind {kind!r}, expected one of {sorted(_PARSERS)}"
        _PARSERS[kind](data)
    except StoreError as error:
        return sha256, str(error)
    return sha256, ""


if __name__ == "__main__":
    main(sys.argv[1:])

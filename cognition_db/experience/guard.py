"""Judging HDF5 files in another process: a single flipped bit can make the HDF5 library loop for ever or crash."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cognition_db.experience.errors import StoreError

_START_LIMIT_S = 120.0
# keeps the command line of the reading process well within the system's limit
_BATCH = 500
_READER = "cognition_db.experience.reader"
_PACKAGES = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """Whether a shard or archive is whole; `problem` is empty for a good file, whose bytes have this sha256."""

    path: Path
    sha256: str
    problem: str


def check_files(paths: Sequence[Path], *, limit_s: float) -> tuple[FileReport, ...]:
    """Judge each shard or archive, in order. One process reads them all; a new one follows only after a bad end.

    Raises:
        StoreError: the reading process can't be started.
    """
    reports: list[FileReport] = []
    while len(reports) < len(paths):
        reports += _read_until_trouble(paths[len(reports) : len(reports) + _BATCH], limit_s)
    return tuple(reports)


def _read_until_trouble(paths: Sequence[Path], limit_s: float) -> list[FileReport]:
    """Reports on all paths, or up to and with the first one that stops the reading process."""
    reports: list[FileReport] = []
    with _start_reader(paths) as reader:
        try:
            lines = _Lines(reader.stdout)
            if lines.next(_START_LIMIT_S) is None:
                raise StoreError(f"the process that reads shards does not start; try `python -m {_READER}`")
            for path in paths:
                line = lines.next(limit_s)
                if line is None:
                    problem = _bad_end(reader, limit_s)
                    return [*reports, FileReport(path=path, sha256="", problem=problem)]
                answer = json.loads(line)
                reports.append(FileReport(path=path, sha256=answer["sha256"], problem=answer["problem"]))
            return reports
        finally:
            reader.kill()


def _start_reader(paths: Sequence[Path]) -> subprocess.Popen[bytes]:
    search_path = os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH", "")]))
    # "::" keeps HDF5 from loading filter plugins, which a damaged file could name
    environment = {**os.environ, "PYTHONPATH": search_path, "HDF5_PLUGIN_PRELOAD": "::"}
    command = [sys.executable, "-m", _READER, *(os.fspath(path) for path in paths)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )


def _bad_end(reader: subprocess.Popen[bytes], limit_s: float) -> str:
    try:
        # the pipe closes a moment before the process is gone
        code = reader.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        return f"reading did not end within {limit_s:g} s; the file is damaged"
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"reading it killed the reader ({how}); the file is damaged"


class _Lines:
    """Lines of a pipe with a time limit for each."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        assert pipe is not None
        self._descriptor = pipe.fileno()
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)
        self._rest = b""

    def next(self, limit_s: float) -> bytes | None:
        """The next line, or None when the pipe ends or the limit passes first."""
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._rest:
            ready = self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            piece = os.read(self._descriptor, 65_536) if ready else b""
            if not piece:
                return None
            self._rest += piece
        line, self._rest = self._rest.split(b"\n", 1)
        return line

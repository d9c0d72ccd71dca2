"""Where a model server answers: its address in a file anyone may read, its key in a file only the owner may read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlparse

from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json, write_atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server. `base_url` ends with /v1; the key never appears in a repr or a log."""

    base_url: str
    model: str
    api_key: str = field(repr=False)

    @property
    def is_local(self) -> bool:
        """True for a server on this host, which no proxy setting of the environment may come between."""
        return urlparse(self.base_url).hostname in ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRecord:
    """A server that was started: address, and the process by pid and start time, so that no stranger is killed."""

    endpoint: Endpoint
    pid: int
    start_ticks: int  # field 22 of /proc/PID/stat: clock ticks after boot
    host: str
    ready: bool  # it has answered once: from then on silence means that it hangs, not that it loads


def write_record(record: ServerRecord, *, endpoint_file: Path, key_file: Path) -> None:
    """Key first, then address: whoever finds the address finds the key as well."""
    write_atomic(key_file, record.endpoint.api_key.encode("ascii"), mode=0o600)
    data = {
        "base_url": record.endpoint.base_url,
        "model": record.endpoint.model,
        "pid": record.pid,
        "start_ticks": record.start_ticks,
        "host": record.host,
        "ready": record.ready,
        "key_file": str(key_file),
    }
    write_atomic(endpoint_file, json.dumps(data, indent=1).encode())


def read_record(endpoint_file: Path) -> ServerRecord | None:
    """The recorded server, or None where there is no usable record (none started, or files damaged)."""
    try:
        data = read_json(endpoint_file)
        key = Path(data["key_file"]).read_text(encoding="ascii").strip()
        endpoint = Endpoint(base_url=str(data["base_url"]), model=str(data["model"]), api_key=key)
        return ServerRecord(
            endpoint=endpoint,
            pid=int(data["pid"]),
            start_ticks=int(data["start_ticks"]),
            host=str(data["host"]),
            ready=bool(data["ready"]),
        )
    except (StoreError, OSError, ValueError, KeyError, TypeError):
        return None

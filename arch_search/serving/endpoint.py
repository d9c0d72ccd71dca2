"""Where a model server answers: its address in a file anyone may read, its key in a file only the owner may read."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    on_node: bool = False  # on a node of the same cluster

    @property
    def is_local(self) -> bool:
        """True for a server on this host or cluster, which no proxy of the environment may come between."""
        return self.on_node or urlparse(self.base_url).hostname in ("127.0.0.1", "localhost", "::1")


def foreign_endpoint(base_url: str, model: str, api_key_env: str, environment: Mapping[str, str]) -> Endpoint:
    """A server that is not ours, its key taken from the named variable. A missing key is allowed: many ask for none."""
    return Endpoint(base_url=base_url.rstrip("/"), model=model, api_key=environment.get(api_key_env, "") or "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRecord:
    """A server that was started: address, and the process by pid and start time, so that no stranger is killed."""

    endpoint: Endpoint
    pid: int
    start_ticks: int  # field 22 of /proc/PID/stat: clock ticks after boot
    host: str
    ready: bool  # it has answered once: from then on silence means that it hangs, not that it loads


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEndpoint:
    """A server in a Slurm job, from its first token on. Times are seconds since 1970 by the clock of its node."""

    endpoint: Endpoint
    job_id: str
    node: str
    started_unix: float
    ends_unix: float  # its time limit


def write_job_endpoint(served: JobEndpoint, *, endpoint_file: Path, key_file: Path) -> None:
    """Key first, then address, as `write_record` does."""
    write_atomic(key_file, served.endpoint.api_key.encode("ascii"), mode=0o600)
    data = {
        "job_id": served.job_id,
        "node": served.node,
        "base_url": served.endpoint.base_url,
        "model": served.endpoint.model,
        "key_file": str(key_file),
        "started_unix": served.started_unix,
        "ends_unix": served.ends_unix,
    }
    write_atomic(endpoint_file, json.dumps(data, indent=1).encode())


def read_job_endpoint(endpoint_file: Path) -> JobEndpoint | None:
    """The published server; None while there is none, or its files are damaged."""
    try:
        data = read_json(endpoint_file)
        key = Path(data["key_file"]).read_text(encoding="ascii").strip()
        return JobEndpoint(
            endpoint=Endpoint(base_url=str(data["base_url"]), model=str(data["model"]), api_key=key, on_node=True),
            job_id=str(data["job_id"]),
            node=str(data["node"]),
            started_unix=float(data["started_unix"]),
            ends_unix=float(data["ends_unix"]),
        )
    except (StoreError, OSError, ValueError, KeyError, TypeError):
        return None


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

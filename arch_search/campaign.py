"""A campaign: one search in one folder. Creating, continuing and locking that folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from arch_search.config import Config
from arch_search.errors import CampaignError, ConfigError
from arch_search.paths import CampaignPaths, GenerationPaths
from arch_search.settings import changed_keys, config_of_older, config_sha256, config_to_json
from cognition_db.experience import archive
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.experience.journal import Journal, read
from cognition_db.records import canonical_json

CAMPAIGN_SCHEMA = 1
_PACKAGES = ("arch-search", "torch", "numpy", "h5py", "submitit", "hydra-core", "pydantic", "scipy")


@dataclass(frozen=True)
class Campaign:
    """An open campaign folder: what was asked, and where everything lies."""

    paths: CampaignPaths
    uuid: str
    config: Config
    config_sha256: str
    command: str
    started_unix: float
    versions: dict[str, str]

    @cached_property
    def journal(self) -> Journal:
        return Journal(self.paths.journal)

    def generation(self, number: int) -> GenerationPaths:
        return self.paths.generation(number)

    def generations_closed(self) -> int:
        """How many generations, counted from generation 0, the journal acknowledges as closed."""
        return sum(entry.kind == "generation-closed" for entry in read(self.paths.journal).entries)

    def is_finished(self) -> bool:
        return self.generations_closed() > self.config.campaign.generations

    def contents(self) -> archive.ArchiveContents:
        """The archive of all closed generations; empty before the first is closed."""
        if not self.paths.archive.exists():
            return archive.ArchiveContents(tries=(), evaluations=(), lessons=(), candidates=())
        return archive.read_archive(self.paths.archive)


def start_or_continue(config: Config, *, command: Sequence[str], base: Path) -> Campaign:
    """Open the campaign the configuration names, creating its folder when there is none to continue.

    Without campaign.dir the newest `base/<name>-NNN` is continued while it is unfinished, otherwise the next
    number is taken.
    """
    folder = Path(config.campaign.dir) if config.campaign.dir else _numbered_folder(base, config.campaign.name)
    paths = CampaignPaths(folder.absolute())
    if not paths.campaign_json.exists():
        return _create(paths, config, command)
    existing = open_campaign(paths.root)
    changed = changed_keys(config_to_json(existing.config), config_to_json(config))
    if changed:
        raise ConfigError(
            f"{folder} was started with other settings ({'; '.join(changed[:3])}); continue it with those, "
            f"or start another with campaign.dir=... or campaign.name=..."
        )
    return Campaign(**{**_fields(existing), "config": config})


def open_campaign(folder: Path) -> Campaign:
    """The campaign in an existing folder; CampaignError in one line if there is none or it cannot be read."""
    paths = CampaignPaths(folder.absolute())
    if not paths.campaign_json.exists():
        raise CampaignError(f"{folder}: no campaign here (no campaign.json); give the folder `arch-search run` named")
    data = read_json(paths.campaign_json)
    if data.get("schema") != CAMPAIGN_SCHEMA:
        raise CampaignError(
            f"{paths.campaign_json}: schema {data.get('schema')}, this program reads {CAMPAIGN_SCHEMA}; "
            "use the arch_search version that wrote it"
        )
    config = config_of_older(data["config"])
    return Campaign(
        paths=paths,
        uuid=data["uuid"],
        config=config,
        config_sha256=config_sha256(config),
        command=data["command"],
        started_unix=data["started_unix"],
        versions=data["versions"],
    )


@contextmanager
def driver_lease(paths: CampaignPaths) -> Iterator[None]:
    """Hold the campaign for this driver; the kernel gives it up when the driver dies, however it dies."""
    paths.root.mkdir(parents=True, exist_ok=True)
    handle = os.open(paths.driver_lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 500, 0).decode(errors="replace").strip() or "unknown"
            raise CampaignError(
                f"{paths.root}: another driver is running this campaign ({holder}); wait for it or end it"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        yield
    finally:
        os.close(handle)


def software_versions() -> dict[str, str]:
    """Version of everything that can change a number."""
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _create(paths: CampaignPaths, config: Config, command: Sequence[str]) -> Campaign:
    if paths.root.exists() and any(path.name != "driver.lock" for path in paths.root.iterdir()):
        raise CampaignError(f"{paths.root}: not empty and no campaign; choose an empty or new folder for campaign.dir")
    campaign = Campaign(
        paths=paths,
        uuid=uuid.uuid4().hex,
        config=config,
        config_sha256=config_sha256(config),
        command=" ".join(command),
        started_unix=time.time(),
        versions=software_versions(),
    )
    data: dict[str, Any] = {
        "schema": CAMPAIGN_SCHEMA,
        "uuid": campaign.uuid,
        "config": config_to_json(config),
        "config_sha256": campaign.config_sha256,
        "command": campaign.command,
        "started_unix": campaign.started_unix,
        "versions": campaign.versions,
    }
    write_atomic(paths.campaign_json, canonical_json(data).encode())
    campaign.journal.append("campaign-started", {"uuid": campaign.uuid, "config_sha256": campaign.config_sha256})
    return campaign


def _numbered_folder(base: Path, name: str) -> Path:
    taken = sorted(
        (int(path.name.removeprefix(f"{name}-")), path)
        for path in base.glob(f"{name}-[0-9]*")
        if path.name.removeprefix(f"{name}-").isdigit() and (path / "campaign.json").exists()
    )
    if taken and not open_campaign(taken[-1][1]).is_finished():
        return taken[-1][1]
    return base / f"{name}-{taken[-1][0] + 1 if taken else 1:03d}"


def _fields(campaign: Campaign) -> dict[str, Any]:
    return {name: getattr(campaign, name) for name in Campaign.__dataclass_fields__}

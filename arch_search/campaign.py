"""A campaign: one search in one folder. Creating and continuing that folder."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from arch_search.agents.messages import Prompts
from arch_search.config import Config
from arch_search.domains import domain_named
from arch_search.errors import CampaignError, ConfigError
from arch_search.paths import CampaignPaths, GenerationPaths
from arch_search.settings import changed_keys, config_of_older, config_sha256, config_to_json
from cognition_db.experience import archive
from cognition_db.experience.files import is_temporary_of, read_json, write_atomic
from cognition_db.experience.journal import Journal, read
from cognition_db.experience.seal import make_secret, read_secret
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
    secret_sha256: str = ""  # empty: started before campaigns had a secret

    @cached_property
    def journal(self) -> Journal:
        return Journal(self.paths.journal)

    @cached_property
    def secret(self) -> str:
        """What the records are sealed with, empty for an older campaign; StoreError where it is lost."""
        return read_secret(self.paths.secret, sha256=self.secret_sha256)

    @property
    def prompts(self) -> Prompts:
        config = self.config
        return Prompts(
            seed=config.campaign.seed,
            domain=domain_named(config.domain.name),
            folder=self.paths.prompts,
            context_tokens=config.llm.context_tokens,
        )

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
    """Open the campaign the configuration names, creating it when there is none to continue; see `campaign_folder`."""
    return open_or_create(campaign_folder(config, base=base), config, command=command)


def campaign_folder(config: Config, *, base: Path) -> Path:
    """The folder of the campaign that the configuration names, whether or not it is there.

    Without campaign.dir the newest `base/<name>-NNN` is continued while it is unfinished, otherwise the next
    number is taken.

    Raises:
        CampaignError: campaign.dir holds other things.
    """
    folder = Path(config.campaign.dir) if config.campaign.dir else _numbered_folder(base, config.campaign.name)
    _require_usable(CampaignPaths(folder.absolute()))
    return folder.absolute()


def open_or_create(folder: Path, config: Config, *, command: Sequence[str]) -> Campaign:
    """The campaign in `folder`, made where there is none; the caller holds its lease."""
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
        secret_sha256=data.get("secret_sha256", ""),
    )


def software_versions() -> dict[str, str]:
    """Version of everything that can change a number."""
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _require_usable(paths: CampaignPaths) -> None:
    # a driver that creates the campaign, or was killed at it, has its lease here and a half-written campaign.json
    others = paths.root.exists() and any(
        path != paths.driver and not is_temporary_of(path, paths.campaign_json) for path in paths.root.iterdir()
    )
    if others and not paths.campaign_json.exists():
        raise CampaignError(f"{paths.root}: not empty and no campaign; choose an empty or new folder for campaign.dir")


def _create(paths: CampaignPaths, config: Config, command: Sequence[str]) -> Campaign:
    _require_usable(paths)
    like = config.campaign.secret_from
    campaign = Campaign(
        paths=paths,
        uuid=uuid.uuid4().hex,
        config=config,
        config_sha256=config_sha256(config),
        command=" ".join(command),
        started_unix=time.time(),
        versions=software_versions(),
        secret_sha256=make_secret(paths.secret, like=Path(like) if like else None),
    )
    data: dict[str, Any] = {
        "schema": CAMPAIGN_SCHEMA,
        "uuid": campaign.uuid,
        "config": config_to_json(config),
        "config_sha256": campaign.config_sha256,
        "command": campaign.command,
        "started_unix": campaign.started_unix,
        "versions": campaign.versions,
        "secret_sha256": campaign.secret_sha256,
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

"""The manifest: what the array elements of one submission round run. Written once, before the submission."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from arch_search.config import Jail, Stage
from arch_search.contract import Contract
from arch_search.errors import CampaignError
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.records import Pack, from_json, to_json_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything a compute node needs besides programs and corpus; lies in the folder of its generation."""

    campaign_uuid: str
    generation: int
    round: int
    config_sha256: str
    stage: Stage
    jail: Jail
    data_dir: str  # folder of the corpus, see training/data.py
    target_parameters: int
    reference_step_s: float | None  # median `step_s` of the reference; None: nothing is ended for slowness
    packs: tuple[Pack, ...]
    classes: dict[str, str]  # candidate id -> name of its module class
    versions: dict[str, str]
    secret_sha256: str = ""  # of the secret beside the driver's lease; empty: a campaign older than secrets
    stage_in: bool = False  # copy the training tokens to the disk of the node first
    contract: Contract = field(default_factory=Contract)  # as it stands: of rounds from before there were domains
    warn_s: float = 30.0  # SIGUSR1 comes so long before the time limit


def write(path: Path, manifest: Manifest) -> None:
    write_atomic(path, to_json_bytes(manifest))


def read(path: Path) -> Manifest:
    """The manifest at `path`; raises CampaignError in one line."""
    try:
        return from_json(Manifest, read_json(path))
    except StoreError as error:
        raise CampaignError(f"no manifest: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CampaignError(f"{path}: no usable manifest: {where}: {first['msg']}; submit the round again") from None

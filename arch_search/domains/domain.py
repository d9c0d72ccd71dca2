"""A domain: all that is particular to what a search is about, as one value without torch."""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from arch_search.contract import Contract
from arch_search.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The domain as prompts put it; each fits into a sentence there."""

    things: str  # what is designed, in the plural
    thing: str
    definition: str  # what such a thing is for, after a colon
    keywords: str  # of the constructor, beside **kwargs
    token_rule: str  # what a token may see
    cost_rule: str
    effectiveness: str  # what the Judge's mark of this name asks, after "how likely it"


PROMPT_WORDS = (*(field.name for field in fields(Words)), "class_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """What a search is about. `reference` is the name of the seed program, which all others are measured against."""

    name: str
    contract: Contract
    words: Words
    reference: str
    seed_program: str
    baselines: tuple[Path, ...]  # folders of the programs that campaign.baselines names
    insight_tags: tuple[str, ...]  # an insight is of use here if it has one of them
    known_programs: Path | None = None  # file that the Judge is anchored and measured by; None: it is not

    @property
    def prompt_words(self) -> dict[str, str]:
        """What stands in prompts for each of PROMPT_WORDS."""
        return {**asdict(self.words), "class_name": self.contract.class_name}

    def baseline(self, name: str) -> str:
        """Program text of one baseline; ConfigError if there is none of that name."""
        files = {file.stem: file for folder in self.baselines for file in sorted(folder.glob("[!_]*.py"))}
        if name not in files:
            raise ConfigError(
                f"campaign.baselines: no baseline named {name!r} in domain {self.name}; there are {', '.join(files)}"
            )
        return files[name].read_text(encoding="utf-8")


def domain_named(name: str) -> Domain:
    """The domain of the folder `name` beside this file; ConfigError if there is none."""
    if name not in _names():
        raise ConfigError(f"domain.name={name!r}: no such domain; there are {', '.join(_names())}")
    found: Domain = importlib.import_module(f"arch_search.domains.{name}").DOMAIN
    return found


@cache
def class_names() -> frozenset[str]:
    """Names by which one of several modules of a program is taken, in any domain."""
    return frozenset(domain_named(name).contract.class_name for name in _names())


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(folder.parent.name for folder in Path(__file__).parent.glob("[a-z]*/__init__.py")))

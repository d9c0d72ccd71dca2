"""Programs whose worth is known beforehand: anchors of the Judge's scale, and pairs that it is measured by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from arch_search.domains import Domain
from arch_search.proposals import splice
from arch_search.proposals.registry import BUILT_IN
from arch_search.proposals.rendering import is_toolbox_program, render

_Methods = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """A published program with the marks that we give it, and why."""

    name: str
    description: str
    effectiveness: int
    novelty: int
    complexity: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPair:
    """Two programs made from the reference, one of which is known to be better."""

    name: str
    why: str
    better: str
    worse: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """A pair as the file has it: the methods that differ from the reference, by name, as lines."""

    name: str
    why: str
    better: _Methods
    worse: _Methods


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    anchors: tuple[Anchor, ...] = ()
    pairs: tuple[_Pair, ...] = ()


def anchors(domain: Domain) -> tuple[Anchor, ...]:
    """Those of the domain; none where it has no file of known programs."""
    return _file(domain.known_programs).anchors


def known_pairs(domain: Domain) -> tuple[KnownPair, ...]:
    """In the order of the domain's file; a test trains each two to show which is better."""
    return tuple(
        KnownPair(
            name=pair.name, why=pair.why, better=_program(domain, pair.better), worse=_program(domain, pair.worse)
        )
        for pair in _file(domain.known_programs).pairs
    )


@cache
def _file(path: Path | None) -> _File:
    return TypeAdapter(_File).validate_json(path.read_text(encoding="utf-8")) if path else _File()


def _program(domain: Domain, methods: _Methods) -> str:
    program = domain.seed_program
    is_rendered = is_toolbox_program(program, BUILT_IN)
    for name, lines in methods.items():
        program = splice.put_method(program, domain.contract.class_name, name, "\n".join(lines))
    # the pieces of the toolbox that the new methods call are copied in
    return render(program, "A variant of the reference.", BUILT_IN) if is_rendered else program

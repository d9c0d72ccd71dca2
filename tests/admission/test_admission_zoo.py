"""The zoo: hostile programs and their variants are refused, killed or marked; honest ones are never refused."""

from __future__ import annotations

import hashlib
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from certificate_programs import PROGRAM, PROVED, UNKNOWN
from zoo.cheats import MACHINE, MEMORY, TAMPERING, WEIGHTS
from zoo.examining import Outcome, examined_in_fork, examined_in_jail
from zoo.faults import FAULTS
from zoo.honest import HEAD, LAYERS, MECHANISMS, mechanism
from zoo.known_misses import MISSED
from zoo.leaks import LEAKS
from zoo.programs import Hostile, hostile
from zoo.rewriting import VARIANTS

_KINDS: dict[str, Mapping[str, Hostile]] = {
    "fault": {name: hostile(check, init=init, body=body) for name, (check, init, body) in FAULTS.items()},
    "leak": LEAKS,
    "weights": WEIGHTS,
    "memory": MEMORY,
    "tampering": TAMPERING,
    "machine": MACHINE,
}
_HOSTILE = {name: program for programs in _KINDS.values() for name, program in programs.items()}
_KIND = {name: kind for kind, programs in _KINDS.items() for name in programs}
# a program that is to be ended needs no time to be examined
_SHORT_S, _FULL_S = 4, 60
_SAMPLED = {"program": 5, "variant": 40, "honest": 4}


def _is_sampled(name: str, one_in: int) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % one_in == 0


def _honest() -> dict[str, tuple[str, bool]]:
    """Text by name, and whether its cost may grow: the certificate's programs are attention, for the most part."""
    indent = "\n        "
    lines = {name: (init.splitlines(), body.splitlines()) for name, (init, body) in (PROVED | UNKNOWN).items()}
    joined = {name: PROGRAM.format(init=indent.join(i), body=indent.join(b)) for name, (i, b) in lines.items()}
    # two tables there end at 600 and 512 positions; cost is counted up to 2048
    joined = {name: re.sub(r"\b600\b|\b512\b", "2048", text) for name, text in joined.items()}
    return (
        {f"layer: {name}": (HEAD + text, False) for name, text in LAYERS.items()}
        | {f"mechanism: {name}": (mechanism(name), False) for name in MECHANISMS}
        | {f"certified: {name}": (text, True) for name, text in joined.items()}
    )


_HONEST = _honest()


def _examined(program: Hostile, text: str, folder: Path) -> Outcome:
    limit_s = _SHORT_S if "killed" in program.caught_by else _FULL_S
    return (examined_in_jail if program.jailed else examined_in_fork)(text, folder, limit_s=limit_s)


def _as_expected(program: Hostile, outcome: Outcome) -> bool:
    return "no effect" in program.caught_by or bool(program.caught_by & set(outcome.words))


def _variants(name: str) -> dict[str, str]:
    """Those in which the program is another, and at all hostile."""
    program = _HOSTILE[name]
    if program.jailed or "no effect" in program.caught_by:
        return {}
    return {variant: rewrite(program.text) for variant, rewrite in VARIANTS.items()}


def _sampled_variants() -> list[tuple[str, str]]:
    pairs = [(name, variant) for name in _HOSTILE for variant in _variants(name)]
    return [(name, variant) for name, variant in pairs if _is_sampled(f"{name}/{variant}", _SAMPLED["variant"])]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in _HOSTILE if _is_sampled(name, _SAMPLED["program"])])
def test_a_hostile_program_meets_the_check_meant_for_it(tmp_path: Path, name: str) -> None:
    outcome = _examined(_HOSTILE[name], _HOSTILE[name].text, tmp_path / "zoo")

    assert _as_expected(_HOSTILE[name], outcome) != (name in MISSED), outcome


@pytest.mark.slow
@pytest.mark.parametrize("name, variant", _sampled_variants())
def test_a_variant_of_a_hostile_program_is_not_clean(tmp_path: Path, name: str, variant: str) -> None:
    outcome = _examined(_HOSTILE[name], _variants(name)[variant], tmp_path / "zoo")

    missed = name in MISSED or f"{name} / {variant}" in MISSED
    assert (outcome.kind == "clean") == missed, outcome


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in _HONEST if _is_sampled(name, _SAMPLED["honest"])])
def test_a_correct_mixer_is_not_refused(tmp_path: Path, name: str) -> None:
    text, exempt_cost = _HONEST[name]

    outcome = examined_in_fork(text, tmp_path / "zoo", limit_s=_FULL_S, exempt_cost=exempt_cost)

    assert outcome.kind in ("clean", "marked"), outcome


@pytest.mark.slow
def test_no_escape_sequence_of_a_program_reaches_the_report(tmp_path: Path) -> None:
    for number, name in enumerate(("escape sequences in an error", "escape sequences in its name")):
        outcome = _examined(MACHINE[name], MACHINE[name].text, tmp_path / f"{number}")

        assert (outcome.class_name + outcome.verdicts[-1].reason).isprintable()


def test_the_zoo_holds_forty_of_each_and_every_variant_is_another_program() -> None:
    assert min(len(_HOSTILE), len(_HONEST)) >= 40
    assert sum(map(len, _KINDS.values())) == len(_HOSTILE)
    for name in ("mask off by one", "weights in an object", "memory in a closure"):
        texts = list(_variants(name).values())
        assert len({*texts, _HOSTILE[name].text}) == len(VARIANTS) + 1


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
def test_nothing_hostile_is_clean_and_nothing_honest_refused(tmp_path: Path) -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    clean, wrong, seconds = set[str](), set[str](), list[float]()
    for name, program in _HOSTILE.items():
        for variant, text in ({"as written": program.text} | _variants(name)).items():
            case = name if variant == "as written" else f"{name} / {variant}"
            outcome = _examined(program, text, tmp_path / f"{len(seconds)}")
            seconds.append(outcome.cpu_s)
            counts[f"{_KIND[name]}, {variant}"][outcome.kind] += 1
            if outcome.kind == "clean" and "no effect" not in program.caught_by:
                clean.add(case)
            if variant == "as written" and name not in MISSED and not _as_expected(program, outcome):
                wrong.add(f"{name}: {outcome.words}")
    refused = set[str]()
    for name, (text, exempt_cost) in _HONEST.items():
        outcome = examined_in_fork(text, tmp_path / f"{len(seconds)}", limit_s=_FULL_S, exempt_cost=exempt_cost)
        seconds.append(outcome.cpu_s)
        counts["honest"][outcome.kind] += 1
        if outcome.kind in ("refused", "killed"):
            refused.add(f"{name}: {outcome.words}")

    print(_table(counts))
    print(
        f"clean {len(clean)}, false alarms {len(refused)}, CPU s: median {statistics.median(seconds):.1f}, "
        f"largest {max(seconds):.1f}"
    )
    known = {case for case in clean if case in MISSED or case.partition(" / ")[0] in MISSED}
    assert (wrong, refused, clean - known) == (set(), set(), set())
    assert {case for case in MISSED if case not in clean} == set(), "caught now: take these off the known misses"


def _table(counts: Mapping[str, Counter[str]]) -> str:
    columns = ("refused", "killed", "marked", "clean")
    lines = [f"{'':40}" + "".join(f"{column:>9}" for column in columns)]
    lines += [f"{row:40}" + "".join(f"{found[column]:9}" for column in columns) for row, found in counts.items()]
    return "\n".join(lines)

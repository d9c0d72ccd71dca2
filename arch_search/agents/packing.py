"""Packing: what a prompt shows of many things, so that it fits the model; each is there whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from arch_search.proposals.assignment import Section

# Prompts of all rungs and roles have 3.2 to 4.1 with the tokenizer of Qwen2.5-Coder; others need more tokens.
_BYTES_PER_TOKEN = 2.8
_TOKENS_PER_TURN = 8  # marks of the chat template around one turn, and one fence


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """`left_out` names the sections that are missing, `shortened` those that are there in their shorter form."""

    texts: dict[str, str]
    left_out: tuple[str, ...]
    shortened: tuple[str, ...]


def tokens_of(*texts: str) -> int:
    """How many tokens these turns need, estimated from their bytes and rather too high."""
    return sum(int(len(text.encode()) / _BYTES_PER_TOKEN) + _TOKENS_PER_TURN for text in texts)


def lines_by_rank(text: str, name: str) -> tuple[Section, ...]:
    """Each line a section, the first the most important, but after it the last: a table ends in what it refers to."""
    lines = text.splitlines()
    return tuple(
        Section(name=f"{name}, line {index}", text=line, priority=1 if index == len(lines) else 2 * index - 1)
        for index, line in enumerate(lines, start=1)
    )


def packed(sections: Mapping[str, Sequence[Section]], *, room_tokens: float, longest: Mapping[str, int]) -> Packed:
    """One text for every fact, of the sections that fit, in their given order.

    The most important section is placed first, and a later one that still fits is placed although an earlier one
    did not. Where the whole section does not fit, its shorter form is tried.

    Args:
        room_tokens: what all of them may need together; infinite where nothing is known of the model.
        longest: most characters of each fact; no entry, no limit.
    """
    placed: dict[tuple[str, int], str] = {}
    left_out, shortened = [], []
    left = {fact: longest.get(fact, float("inf")) for fact in sections}
    ranked = sorted(
        ((fact, index, one) for fact, several in sections.items() for index, one in enumerate(several)),
        key=lambda entry: entry[2].priority,
    )
    for fact, index, one in ranked:
        for text in filter(None, (one.text, one.instead)):
            if tokens_of(text) <= room_tokens and len(text) + 1 <= left[fact]:
                placed[fact, index] = text
                room_tokens -= tokens_of(text)
                left[fact] -= len(text) + 1
                shortened += [one.name] if text != one.text else []
                break
        else:
            left_out += [one.name] if one.text else []
    return Packed(
        texts={
            fact: "\n".join(placed[fact, index] for index in range(len(several)) if (fact, index) in placed)
            for fact, several in sections.items()
        },
        left_out=tuple(left_out),
        shortened=tuple(shortened),
    )

"""Near duplicates: how much of what two programs change against the reference is the same text."""

from __future__ import annotations

import ast
import io
import tokenize
import zlib
from functools import lru_cache

from arch_search.errors import ProposalError
from arch_search.proposals.difference import definitions
from arch_search.proposals.splice import drop_words, parse

_LENGTH = 5  # tokens of one shingle
Shingles = frozenset[int]  # check sums of runs of tokens


def similarity(one: Shingles, other: Shingles) -> float:
    """Share of the shingles of either that both have (Jaccard), from 0 to 1; 0 where one has none."""
    return len(one & other) / len(one | other) if one and other else 0.0


@lru_cache(maxsize=16_384)
def changes(program: str, reference: str) -> Shingles:
    """Runs of tokens in the definitions that differ from the reference's; nothing where the program does not parse.

    All numbers are one token and so are all texts: programs that are the same up to their constants are 1 alike. Where
    no definition is the reference's, this is the whole program.
    """
    try:
        own, known = _definitions(program), _definitions(reference)
    except (ProposalError, RecursionError):
        return frozenset()
    changed = (_tokens(name, text) for name, text in own.items() if known.get(name) != text)
    return frozenset(
        zlib.crc32("\0".join(tokens[start : start + _LENGTH]).encode())
        for tokens in changed
        for start in range(max(1, len(tokens) - _LENGTH + 1))
    )


@lru_cache(maxsize=1024)
def _definitions(program: str) -> dict[str, str]:
    """Their text without words, by qualified name."""
    tree = parse(program)
    drop_words(tree)
    return {name: ast.unparse(node) for name, node in definitions(tree).items()}


def _tokens(name: str, definition: str) -> tuple[str, ...]:
    """The definition as tokens behind its qualified name, so that equal lines in two places are two changes."""
    classes = {tokenize.NUMBER: "0", tokenize.STRING: "text"}
    found = tokenize.generate_tokens(io.StringIO(definition).readline)
    words = (classes.get(token.type, token.string) for token in found if token.string.strip())
    return (name, *words)

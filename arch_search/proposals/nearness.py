"""Near duplicates: how much of the text is the same where two programs differ."""

from __future__ import annotations

import ast
import io
import tokenize
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache

from arch_search.errors import ProposalError
from arch_search.proposals.difference import Definition, definitions
from arch_search.proposals.splice import drop_words, parse

_LENGTH = 5  # tokens of one shingle
Shingles = frozenset[int]  # check sums of runs of tokens


def alike(one: str, other: str) -> float:
    """How much of the text of the definitions in which two programs differ is the same (Jaccard), from 0 to 1.

    All numbers are one token and so are all texts: programs that are the same up to their constants are 1 alike. What
    both have in the same form does not count, so that a child of a long line is as far from its parent as one of a
    short line. 0 where one does not parse.
    """
    own, known = _definitions(one), _definitions(other)
    if not own or not known:
        return 0.0
    differing = [name for name in {**own, **known} if own.get(name) != known.get(name)]
    if not differing:
        return 1.0
    mine, theirs = (_all_shingles(found, differing) for found in (own, known))
    return len(mine & theirs) / len(mine | theirs)


def _all_shingles(found: Mapping[str, str], names: Iterable[str]) -> Shingles:
    return frozenset().union(*(_shingles(name, found[name]) for name in names if name in found))


@lru_cache(maxsize=65_536)
def _shingles(name: str, text: str) -> Shingles:
    tokens = _tokens(name, text)
    return frozenset(
        zlib.crc32("\0".join(tokens[start : start + _LENGTH]).encode())
        for start in range(max(1, len(tokens) - _LENGTH + 1))
    )


@lru_cache(maxsize=16_384)
def _definitions(program: str) -> dict[str, str]:
    """The text of each without words, of a function its body, by qualified name; nothing where it does not parse."""
    try:
        tree = parse(program)
        drop_words(tree)
        return {name: _text(node) for name, node in definitions(tree).items()}
    except (ProposalError, RecursionError):
        return {}


def _text(node: Definition) -> str:
    """Without the arguments, which all forms of a hook share."""
    return "\n".join(map(ast.unparse, node.body)) if isinstance(node, ast.FunctionDef) else ast.unparse(node)


def _tokens(name: str, definition: str) -> tuple[str, ...]:
    """The definition as tokens behind its qualified name, so that equal lines in two places are two changes."""
    classes = {tokenize.NUMBER: "0", tokenize.STRING: "text"}
    found = tokenize.generate_tokens(io.StringIO(definition).readline)
    words = (classes.get(token.type, token.string) for token in found if token.string.strip())
    return (name, *words)

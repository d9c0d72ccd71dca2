"""Text of models, programs and servers, made safe for one line of a terminal, a page, a file or a verdict."""

from __future__ import annotations

import unicodedata

_KEPT = "\n\t"
_REPLACED = "\N{REPLACEMENT CHARACTER}"


def clean(text: str) -> str:
    """The text without control, direction and surrogate characters, which could steer a terminal or a page."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in _KEPT or not is_unseen(char) else _REPLACED for char in text)


def is_unseen(char: str) -> bool:
    """Control, direction, joining, private and unassigned characters."""
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn")


def one_line(text: str, longest: int | None = None) -> str:
    """Cleaned text with every run of white space as one space, at most `longest` characters of it."""
    line = " ".join(clean(" ".join(text.split())).split())
    return line if longest is None or len(line) <= longest else f"{line[: longest - 3]}..."


def without_surrogates(text: str) -> str:
    """Text that UTF-8 can hold: pairs of surrogates become their character, single ones a replacement character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

"""The fence: what programs, models and measurements say goes into prompts as data, between marks it cannot forge."""

from __future__ import annotations

import hashlib
import re

from arch_search.clean_text import is_unseen

_KEPT = "\n\t"
_BREAKS = re.compile(r"\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# what could end the fence, and the marks by which chat templates of common models tell one speaker from another
_MARKS = re.compile(
    r"<(?=\s*(?:/\s*)?data\b)|<(?=\|)|(?<=\|)>|<(?=/?\s*(?:s|bos|eos|think|tool_call|tool_response|(?:start|end)_of_turn)\s*>)"
    r"|\[(?=/?\s*(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS)\])",
    re.IGNORECASE,
)
_HARMLESS = {"<": "\u2039", ">": "\u203a", "[": "("}  # they read alike and are no marks
# a piece begins at a line that is not indented and at a method; lines of a body belong to the piece before them
_PIECE = re.compile(r"^(?=\S| {4}(?:@|def |async def ))", re.MULTILINE)
_SENTENCE = re.compile(r"(?<=[.;] )")


def nonce_of(seed: int, key: str) -> str:
    """The mark of the fences of one call: another one for each key, and the same again when a campaign is replayed."""
    return hashlib.sha256(f"fence/{seed}/{key}".encode()).hexdigest()[:8]


def fenced(text: str, *, nonce: str, longest: int) -> str:
    """The text as data, at most `longest` characters of it; nothing where there is nothing to show."""
    shown = capped(neutral(text, nonce=nonce).strip("\n"), longest)
    return f"<data {nonce}>\n{shown}\n</data {nonce}>" if shown.strip() else ""


def neutral(text: str, *, nonce: str = "") -> str:
    """The text without characters that nobody sees and without anything that reads as a mark of ours or of a chat."""
    plain = "".join(char for char in _BREAKS.sub("\n", text) if char in _KEPT or not is_unseen(char))
    plain = _MARKS.sub(lambda match: _HARMLESS[match[0]], plain)
    return re.sub(re.escape(nonce), "-", plain, flags=re.IGNORECASE) if nonce else plain


def capped(text: str, longest: int) -> str:
    """At most `longest` characters and a note, ended after a whole definition, else a whole line, else a sentence."""
    if len(text) <= longest:
        return text
    splits = (_PIECE.split(text), text.splitlines(keepends=True), _SENTENCE.split(text))
    kept = next(filter(None, (_first(pieces, longest) for pieces in splits)), "")
    return f"{kept}\n({len(text) - len(kept)} more characters are not shown)".lstrip("\n")


def _first(pieces: list[str], longest: int) -> str:
    """As many of the pieces, from the first on, as are not longer than that together."""
    kept = ""
    for piece in pieces:
        if len(kept + piece) > longest:
            break
        kept += piece
    return kept.rstrip()

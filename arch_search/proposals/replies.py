"""From the text of a reply to the code in it: comment and function, or header and fenced block."""

from __future__ import annotations

import ast
import json
import re
import textwrap
from dataclasses import dataclass

from arch_search.clean_text import one_line
from arch_search.errors import ProposalError
from arch_search.proposals import splice

_FENCE = re.compile(r"```[A-Za-z0-9_+-]*[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_LONGEST_WORDS = 300  # characters kept of a writer's own words
_LONGEST_REPLY = 200_000  # characters; more comes only from a server that does not keep to max_tokens
# what walks a syntax tree recurses several frames per level, in threads that stand at different depths already
_DEEPEST = 100
_LONGEST_INTEGER_BITS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a reply holds: the code, dedented, and the writer's own words about it."""

    code: str
    words: str


def function_reply(reply: str, name: str) -> tuple[ast.FunctionDef, str]:
    """The function `name` of a toolbox reply, fenced or not, and the comment in front of it.

    Raises ProposalError for an empty reply, prose, code that does not parse, another function.
    """
    _require_readable(reply, "one function")
    # a small model often closes a fence that it never opened, so the text before the first fence counts as a block
    blocks = [block for block in (*_FENCE.findall(reply), reply.split("```")[0]) if f"def {name}" in block]
    if not blocks:
        raise ProposalError(f"the reply has no def {name}; it begins with {_start(reply)}")
    code = textwrap.dedent(max(blocks, key=len)).strip() + "\n"
    tree = _bounded_tree(code, "the reply")
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if len(found) != 1 or len(tree.body) != 1:
        raise ProposalError(f"the reply must hold the function {name} and nothing else, not {len(tree.body)} parts")
    words = " ".join(line.strip("# ").strip() for line in code.splitlines() if line.lstrip().startswith("#"))
    return found[0], one_line(words, _LONGEST_WORDS)


def fenced_reply(reply: str) -> Written:
    """The longest fenced block of a reply and the words of its JSON header, where there is one.

    Raises ProposalError for an empty reply, a reply without a fenced block, a block that does not parse.
    """
    _require_readable(reply, "a JSON header and one fenced block of Python")
    blocks = _FENCE.findall(reply)
    if not blocks:
        raise ProposalError(f"the reply has no fenced block; it begins with {_start(reply)}")
    code = textwrap.dedent(max(blocks, key=len)).strip("\n") + "\n"
    _bounded_tree(code, "the fenced block")
    if not code.strip():
        raise ProposalError("the fenced block of the reply is empty")
    return Written(code=code, words=_words(reply[: reply.find("```")]))


def _words(before: str) -> str:
    """The motivation of the JSON header in front of the block; other text there is not kept."""
    start, end = before.find("{"), before.rfind("}")
    if start < 0 or end < start:
        return ""
    try:
        header = json.loads(before[start : end + 1])
    except (ValueError, RecursionError):
        return ""
    words = header.get("motivation", "") if isinstance(header, dict) else ""
    return one_line(words, _LONGEST_WORDS) if isinstance(words, str) else ""


def _require_readable(reply: str, expected: str) -> None:
    if not reply.strip():
        raise ProposalError(f"the reply is empty; expected {expected}")
    if len(reply) > _LONGEST_REPLY:
        raise ProposalError(f"the reply has {len(reply)} characters; at most {_LONGEST_REPLY} are read")


def _bounded_tree(code: str, what: str) -> ast.Module:
    """The tree of code that every later step can walk, compare and write out again; ProposalError for any other."""
    tree = splice.parse(code, what)
    level: list[ast.AST] = [tree]
    for _ in range(_DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        for node in level:
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, int) and value.bit_length() > _LONGEST_INTEGER_BITS:
                raise ProposalError(f"{what} holds an integer of {value.bit_length()} bits")
    if level:
        raise ProposalError(f"{what} is nested more than {_DEEPEST} levels deep; write it flatter")
    return tree


def _start(reply: str) -> str:
    return repr(reply.strip()[:40])

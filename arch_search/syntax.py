"""Python's own parser, safe for threads."""

from __future__ import annotations

import ast
import threading

_GUARD = threading.RLock()


def syntax_tree(text: str) -> ast.Module:
    """ast.parse for use from several threads; raises what it raises.

    CPython 3.11 counts the depth of a tree under construction once for all threads. Where the garbage collector runs a
    finalizer meanwhile, another thread can parse as well, and both get a SystemError.
    """
    with _GUARD:
        return ast.parse(text)

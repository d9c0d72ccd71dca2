from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.syntax import syntax_tree

ROOT = Path(__file__).parents[2] / "arch_search"


class Garbage:
    """Only the garbage collector ends it, and that lets other threads run."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        time.sleep(0)


def failures_of(parse: Callable[[str], object]) -> int:
    failed: list[Exception] = []

    def work() -> None:
        for _ in range(60):
            _ = [Garbage() for _ in range(20)]
            try:
                parse(SEED_PROGRAM)
            except SystemError as error:
                failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(failed)


def test_threads_that_parse_while_garbage_is_collected_all_get_their_tree() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        assert failures_of(syntax_tree) == 0
    finally:
        sys.setswitchinterval(before)


def test_nothing_of_the_driver_parses_past_the_guard() -> None:
    files = [file for file in ROOT.rglob("*.py") if "fla_stand_in" not in file.parts]
    assert [file.name for file in files if "ast.parse(" in file.read_text()] == ["syntax.py"]

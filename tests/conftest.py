"""For all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Triton reads it when it is first imported, which parts of torch do: without a GPU its kernels run in its interpreter
if not Path("/dev/nvidia0").exists():
    os.environ["TRITON_INTERPRET"] = "1"

# a shell that starts tests in the background makes them ignore these, and so every program they start
for _word, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_word) is signal.SIG_IGN:
        signal.signal(_word, _handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes goes first: at the end one worker would do it while the others have nothing left."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)

"""The wall that the unit tests run behind: loopback answers, nothing else is reached, and the rest is as outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "offline.sh"
TRY = """
import os, socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname(), 5).close()
try:
    socket.create_connection(("192.0.2.1", 80), 5)
except OSError as error:
    print(os.geteuid(), error.strerror, sys.argv[1:])
"""


def offline(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *command], capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(bool(offline("--possible").stdout), reason="this machine allows no network namespace")
def test_a_command_reaches_loopback_and_nothing_else() -> None:
    ran = offline(sys.executable, "-c", TRY, "two words")
    assert ran.stdout == f"{os.geteuid()} Network is unreachable ['two words']\n", ran.stderr
    assert offline("false").returncode == 1


def test_a_machine_that_does_not_allow_it_is_named(tmp_path: Path) -> None:
    refuses = "#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n"
    (tmp_path / "unshare").write_text(refuses)
    (tmp_path / "unshare").chmod(0o755)
    ran = subprocess.run(
        [SCRIPT, "--possible"], capture_output=True, text=True, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )
    assert ran.stdout == "no network namespace: Operation not permitted\n"

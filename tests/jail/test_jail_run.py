"""How a jailed program runs, ends and is watched; what it can get at is in test_jail_probes.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from arch_search.errors import JailError
from arch_search.jail import JailResult, Limits, best_rung, jailed_python, run_jailed
from arch_search.jail.rungs import LADDER, why_not

LIMITS = Limits(wall_s=60, cpu_s=30, memory_gb=0.5, file_mb=8, processes=32)
CONFINING = [
    pytest.param(rung, marks=pytest.mark.skipif(bool(why_not(rung)), reason=f"{rung}: {why_not(rung)}"))
    for rung in LADDER
]
EVERY = [*CONFINING, "off"]


def jailed(
    workdir: Path,
    code: str,
    rung: str,
    *,
    limits: Limits = LIMITS,
    on_tick: Callable[[], str | None] | None = None,
) -> JailResult:
    inside = jailed_python(workdir)
    return run_jailed(
        [sys.executable, "-c", code],
        workdir=workdir,
        readable=inside.readable,
        limits=limits,
        environment=inside.environment,
        rung=rung,
        on_tick=on_tick,
    )


def alive(marker: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and marker.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def is_gone_within(seconds: float, marker: str) -> bool:
    until = time.monotonic() + seconds
    while alive(marker) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(marker)


@pytest.mark.parametrize("rung", EVERY)
def test_a_program_imports_our_packages_and_writes_its_folder(tmp_path: Path, rung: str) -> None:
    result = jailed(tmp_path, "import numpy, arch_search.jail; open('out', 'w').write('done'); print('said')", rung)

    assert (result.ended, result.exit_code, result.stderr_tail) == ("exited", 0, "")
    assert (result.stdout_tail, (tmp_path / "out").read_text(), result.rung) == ("said\n", "done", rung)
    assert result.cpu_s > 0


@pytest.mark.parametrize("rung", EVERY)
def test_the_exit_code_and_the_death_by_a_signal_are_told_apart(tmp_path: Path, rung: str) -> None:
    left = jailed(tmp_path, "raise SystemExit(3)", rung)
    died = jailed(tmp_path, "import os; os.kill(os.getpid(), 11)", rung)

    assert (left.ended, left.exit_code, left.signal) == ("exited", 3, None)
    assert (died.ended, died.exit_code, died.signal) == ("signalled", None, signal.SIGSEGV)
    assert died.reason == "was ended by SIGSEGV"


@pytest.mark.parametrize("rung", EVERY)
def test_memory_that_copies_of_a_process_share_is_counted_once(tmp_path: Path, rung: str) -> None:
    code = (
        "import os, time\nx = bytearray(b'1' * 80_000_000)\nfor _ in range(2): os.fork()\ntime.sleep(0.8)\nprint('ok')"
    )
    result = jailed(tmp_path, code, rung, limits=replace(LIMITS, memory_gb=0.2))

    assert (result.ended, result.exit_code) == ("exited", 0)
    assert 80 < result.peak_memory_mb < 200


@pytest.mark.parametrize("rung", EVERY)
def test_megabytes_of_output_neither_block_nor_pile_up(tmp_path: Path, rung: str) -> None:
    code = "import sys\nfor i in range(100_000): print('x' * 40, i)\nprint('last', file=sys.stderr)"
    result = jailed(tmp_path, code, rung)

    assert (result.ended, result.exit_code, result.stderr_tail) == ("exited", 0, "last\n")
    assert len(result.stdout_tail) == 16_384
    assert result.stdout_tail.endswith("x 99999\n")


@pytest.mark.parametrize("rung", EVERY)
def test_the_watcher_of_the_caller_can_stop_the_program(tmp_path: Path, rung: str) -> None:
    code = "import time\nopen('up', 'w').close()\ntime.sleep(60)"
    result = jailed(tmp_path, code, rung, on_tick=lambda: "far too slow" if (tmp_path / "up").exists() else None)

    assert (result.ended, result.reason, result.exit_code) == ("stopped", "far too slow", None)


def _kill_guards() -> None:
    """SIGKILL to every guard that this process has started."""
    for pid in alive("guard.py"):
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                os.kill(pid, signal.SIGKILL)


def _kill_guard_soon(marker: str, after_s: float) -> None:
    """So long after something with this marker was started."""
    until = time.monotonic() + 20
    while not alive(marker) and time.monotonic() < until:
        time.sleep(0.0005)
    time.sleep(after_s)
    _kill_guards()


@pytest.mark.parametrize("rung", EVERY)
def test_a_killed_guard_is_a_kill_from_outside(tmp_path: Path, rung: str) -> None:
    result = jailed(tmp_path, "import time; time.sleep(30)", rung, on_tick=_kill_guards)

    assert result.is_killed_from_outside, result


@pytest.mark.parametrize("rung", EVERY)
def test_nothing_of_the_program_outlives_a_killed_guard(tmp_path: Path, rung: str) -> None:
    marker = uuid.uuid4().hex

    def kill() -> None:
        if (tmp_path / "up").exists():
            _kill_guards()

    code = f"'{marker}'\nimport os, time\nif not os.fork(): open('up', 'w').close()\ntime.sleep(60)"
    result = jailed(tmp_path, code, rung, on_tick=kill)

    assert result.is_killed_from_outside, result
    assert alive(marker) == []


@pytest.mark.slow
@pytest.mark.parametrize("rung", EVERY)
def test_nothing_of_the_program_outlives_a_guard_that_is_killed_while_the_jail_is_built(
    tmp_path: Path, rung: str
) -> None:
    """bubblewrap dies with its parent only once the jail is built."""
    marker = uuid.uuid4().hex
    for attempt in range(24):
        killer = threading.Thread(target=_kill_guard_soon, args=(marker, 0.002 * attempt))
        killer.start()
        jailed(tmp_path, f"'{marker}'\nimport time\ntime.sleep(20)", rung)
        killer.join()
        assert alive(marker) == [], f"killed {2 * attempt} ms after its start"


@pytest.mark.parametrize("rung", EVERY)
def test_a_program_that_ends_by_itself_is_not_killed_from_outside(tmp_path: Path, rung: str) -> None:
    assert not jailed(tmp_path, "raise SystemExit(3)", rung).is_killed_from_outside
    assert not jailed(tmp_path, "import os; os.abort()", rung).is_killed_from_outside


def test_an_error_in_the_watcher_leaves_no_program_behind(tmp_path: Path) -> None:
    marker = uuid.uuid4().hex

    def fail() -> str | None:
        raise RuntimeError("watcher broke")

    with pytest.raises(RuntimeError, match="watcher broke"):
        jailed(tmp_path, f"'{marker}'\nimport time\ntime.sleep(60)", best_rung("auto"), on_tick=fail)
    assert alive(marker) == []


@pytest.mark.parametrize("rung", EVERY)
def test_the_program_dies_with_a_killed_supervisor(tmp_path: Path, rung: str) -> None:
    marker = uuid.uuid4().hex
    code = f"'{marker}'\nimport os, time\nopen('up', 'w').close()\nos.fork()\ntime.sleep(60)"
    script = f"""
import sys
import threading
from pathlib import Path
from arch_search.jail import Limits, run_jailed, jailed_python
work = Path({str(tmp_path)!r})
inside = jailed_python(work)
limits = Limits(wall_s=60, cpu_s=30, memory_gb=0.5, file_mb=8, processes=32)
run_jailed([sys.executable, '-c', {code!r}], workdir=work, readable=inside.readable, limits=limits,
           environment=inside.environment, rung={rung!r})
"""
    supervisor = subprocess.Popen([sys.executable, "-c", script])
    until = time.monotonic() + 30
    while not (tmp_path / "up").exists() and time.monotonic() < until:
        time.sleep(0.05)

    supervisor.kill()
    supervisor.wait()

    assert (tmp_path / "up").exists()
    assert is_gone_within(10, marker)


def test_a_program_that_does_not_exist_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(JailError, match="not an executable"):
        run_jailed(["/no/such"], workdir=tmp_path, readable=(), limits=LIMITS, environment={}, rung="off")


@pytest.mark.skipif(bool(why_not("bwrap")), reason=why_not("bwrap"))
def test_a_jail_that_cannot_be_built_is_our_error_and_not_the_programs(tmp_path: Path) -> None:
    with pytest.raises(JailError, match="bwrap could not build the jail"):
        run_jailed(
            [sys.executable, "-c", ""],
            workdir=tmp_path,
            readable=(tmp_path / "missing",),
            limits=LIMITS,
            environment={},
            rung="bwrap",
        )


@pytest.mark.skipif(bool(why_not("bwrap")), reason=why_not("bwrap"))
def test_a_program_that_pretends_to_be_a_failing_bwrap_is_still_the_programs_fault(tmp_path: Path) -> None:
    result = jailed(tmp_path, "import sys; sys.stderr.write('bwrap: broken'); sys.exit(1)", "bwrap")

    assert (result.ended, result.exit_code) == ("exited", 1)

"""What a jailed program can do, and how each way of misbehaving ends. Hostile programs here are bounded by themselves:
a jail that fails must cost a test, not the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
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


def outside_probe(outside: Path) -> str:
    """Prints what is possible with the folder `outside`."""
    return f"""
import os
from pathlib import Path
out = Path({str(outside)!r})
def tried(name, act):
    try:
        act()
        print(name)
    except OSError:
        pass
os.symlink(out / 'secret', 'link')
tried('read', lambda: (out / 'secret').read_text())
tried('read by link', lambda: Path('link').read_text())
tried('hard link', lambda: os.link(out / 'secret', 'hard'))
tried('write', lambda: (out / 'new').write_text('x'))
tried('chmod', lambda: os.chmod(out / 'secret', 0o600))
tried('times', lambda: os.utime(out / 'secret', (0, 0)))
tried('truncate', lambda: os.truncate(out / 'secret', 0))
tried('rename', lambda: os.rename(out / 'secret', out / 'moved'))
tried('remove', lambda: (out / 'moved').unlink())
"""


@pytest.mark.parametrize("rung", CONFINING)
def test_nothing_outside_the_folder_can_be_read_or_written(tmp_path: Path, rung: str) -> None:
    workdir, outside = tmp_path / "work", tmp_path / "outside"
    workdir.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("secret")
    result = jailed(workdir, outside_probe(outside), rung)

    assert (result.exit_code, result.stdout_tail) == (0, "")
    assert (outside / "secret").read_text() == "secret"
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_the_probe_of_the_outside_succeeds_where_nothing_is_confined(tmp_path: Path) -> None:
    workdir, outside = tmp_path / "work", tmp_path / "outside"
    workdir.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("secret")
    result = jailed(workdir, outside_probe(outside), "off")

    assert len(result.stdout_tail.splitlines()) == 9
    assert not (outside / "secret").exists()


@pytest.mark.parametrize("rung", CONFINING)
def test_the_shared_folders_of_the_system_cannot_be_used(tmp_path: Path, rung: str) -> None:
    name = uuid.uuid4().hex
    code = f"""
for path in ('/dev/shm/{name}', '/tmp/{name}', '/var/tmp/{name}', '/run/{name}', '/etc/{name}', '/{name}'):
    try:
        open(path, 'w').close()
        print('wrote', path)
    except OSError:
        pass
for path in ('/etc/shadow', '/etc/munge/munge.key', '/root/.bashrc'):
    try:
        open(path).close()
        print('read', path)
    except OSError:
        pass
"""
    result = jailed(tmp_path, code, rung)

    assert (result.exit_code, result.stdout_tail) == (0, "")


@pytest.mark.parametrize("rung", CONFINING)
def test_the_home_of_the_user_cannot_be_read(tmp_path: Path, rung: str) -> None:
    needed = [*jailed_python(tmp_path).readable, tmp_path.resolve()]
    private = [
        path
        for path in Path.home().iterdir()
        if not any(other.is_relative_to(path) or path.is_relative_to(other) for other in needed)
    ]
    code = f"""
import os
for path in {[str(path) for path in private]!r}:
    try:
        os.listdir(path) if os.path.isdir(path) else open(path).read(1)
        print('read', path)
    except OSError:
        pass
"""
    result = jailed(tmp_path, code, rung)

    assert (result.exit_code, result.stdout_tail) == (0, "")


@pytest.mark.parametrize("rung", CONFINING)
def test_no_socket_of_any_family_can_be_opened_but_a_pair_works(tmp_path: Path, rung: str) -> None:
    code = """
import socket
for family in range(1, 46):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            socket.socket(family, kind)
            print('opened', family, kind)
        except OSError:
            pass
one, other = socket.socketpair()
one.send(b'x')
try:
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    print('datagram pair')
except OSError:
    pass
"""
    result = jailed(tmp_path, code, rung)

    assert (result.exit_code, result.stdout_tail, result.stderr_tail) == (0, "", "")


@pytest.mark.parametrize("rung", CONFINING)
def test_calls_that_lead_out_are_refused(tmp_path: Path, rung: str) -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def refused(name, answer):
    if answer != -1:
        print('possible:', name)
refused('new user namespace', libc.unshare(0x10000000))
if os.uname().machine == 'x86_64':
    refused('new user namespace by clone', libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0))
    refused('keyring', libc.syscall(250, 0, -3, 0, 0, 0))
refused('ptrace', libc.ptrace(0, 0, 0, 0))
refused('mount', libc.mount(b'none', b'/', b'tmpfs', 0, None))
refused('memory file', libc.memfd_create(b'x', 0))
refused('shared memory', libc.shmget(0, 4096, 0o1600))
refused('limits of others', libc.prlimit(os.getppid(), 7, (ctypes.c_uint64 * 2)(1, 1), None))
"""
    result = jailed(tmp_path, code, rung)

    assert (result.exit_code, result.stdout_tail, result.stderr_tail) == (0, "", "")


@pytest.mark.parametrize("rung", CONFINING)
def test_the_supervisor_can_neither_be_signalled_nor_looked_into(tmp_path: Path, rung: str) -> None:
    # signal 0 only asks whether a signal would be allowed
    code = f"""
import os
for name, act in {{
    'signal': lambda: os.kill({os.getpid()}, 0) or open('/proc/{os.getpid()}/cmdline').read().index('pytest'),
    'environment': lambda: open('/proc/{os.getpid()}/environ').read(1),
    'memory': lambda: open('/proc/{os.getpid()}/mem', 'rb').read(1),
}}.items():
    try:
        act()
        print('possible:', name)
    except (OSError, ValueError):
        pass
"""
    result = jailed(tmp_path, code, rung)

    assert (result.exit_code, result.stdout_tail) == (0, "")


@pytest.mark.skipif(bool(why_not("landlock")), reason=why_not("landlock"))
def test_signals_to_groups_and_to_everything_are_refused_where_processes_are_shared(tmp_path: Path) -> None:
    code = """
import os
for target in (-1, -2, -os.getpgrp()):
    try:
        os.kill(target, 0)
        print('possible:', target)
    except PermissionError:
        pass
"""
    result = jailed(tmp_path, code, "landlock")

    assert (result.exit_code, result.stdout_tail) == (0, "")


@pytest.mark.parametrize("rung", EVERY)
def test_the_environment_holds_no_token_agent_or_job(
    tmp_path: Path, rung: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "SSH_AUTH_SOCK", "SLURM_JOB_ID", "AWS_SECRET_ACCESS_KEY", "MUNGE_SOCKET"):
        monkeypatch.setenv(name, "secret")

    result = jailed(tmp_path, "import os; print(os.environ); print(open('/proc/self/environ').read())", rung)

    assert "secret" not in result.stdout_tail
    assert f"'HOME': '{tmp_path}'" in result.stdout_tail


@pytest.mark.parametrize("rung", EVERY)
def test_an_endless_loop_ends_by_the_clock(tmp_path: Path, rung: str) -> None:
    result = jailed(tmp_path, "while True: pass", rung, limits=replace(LIMITS, wall_s=0.6))

    assert (result.ended, result.exit_code) == ("timed_out", None)
    assert result.reason.startswith("ran ")
    assert result.wall_s < 20


@pytest.mark.parametrize("rung", EVERY)
def test_cpu_time_is_limited_for_the_whole_tree(tmp_path: Path, rung: str) -> None:
    code = "import os\nos.fork()\nwhile True: pass"
    result = jailed(tmp_path, code, rung, limits=replace(LIMITS, cpu_s=0.6))

    assert result.ended == "timed_out"
    assert "CPU-seconds" in result.reason


@pytest.mark.parametrize("rung", EVERY)
def test_a_memory_eater_is_ended_with_what_it_used(tmp_path: Path, rung: str) -> None:
    code = "import time\nx = []\nfor _ in range(300): x.append(bytearray(4_000_000)); time.sleep(0.002)\ntime.sleep(30)"
    result = jailed(tmp_path, code, rung, limits=replace(LIMITS, memory_gb=0.2))

    assert result.ended == "out_of_memory"
    assert result.peak_memory_mb > 0.2 * 1024


@pytest.mark.parametrize("rung", EVERY)
def test_memory_that_copies_of_a_process_share_is_counted_once(tmp_path: Path, rung: str) -> None:
    code = (
        "import os, time\nx = bytearray(b'1' * 80_000_000)\nfor _ in range(2): os.fork()\ntime.sleep(0.8)\nprint('ok')"
    )
    result = jailed(tmp_path, code, rung, limits=replace(LIMITS, memory_gb=0.2))

    assert (result.ended, result.exit_code) == ("exited", 0)
    assert 80 < result.peak_memory_mb < 200


@pytest.mark.parametrize("rung", EVERY)
def test_one_huge_allocation_fails_inside_the_program(tmp_path: Path, rung: str) -> None:
    result = jailed(tmp_path, "bytearray(10**12)", rung)

    assert (result.ended, result.exit_code) == ("exited", 1)
    assert "MemoryError" in result.stderr_tail


@pytest.mark.parametrize("rung", EVERY)
def test_a_multiplying_program_is_stopped_and_wholly_gone(tmp_path: Path, rung: str) -> None:
    marker = uuid.uuid4().hex
    # 2^7 processes at most, which leave by themselves
    code = f"'{marker}'\nimport os, time\nfor _ in range(7): os.fork()\ntime.sleep(20)"
    result = jailed(tmp_path, code, rung)

    assert (result.ended, result.reason) == ("stopped", "ran more than 32 processes and threads")
    assert alive(marker) == []


@pytest.mark.parametrize("rung", EVERY)
def test_a_daemon_that_forks_twice_does_not_outlive_the_program(tmp_path: Path, rung: str) -> None:
    marker = uuid.uuid4().hex
    code = f"""
import os, time
'{marker}'
if os.fork() == 0:
    try:
        os.setsid()
    except OSError:
        pass
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
os.wait()
print('left')
"""
    result = jailed(tmp_path, code, rung)

    assert (result.ended, result.stdout_tail) == ("exited", "left\n")
    assert alive(marker) == []


@pytest.mark.parametrize("rung", EVERY)
def test_megabytes_of_output_neither_block_nor_pile_up(tmp_path: Path, rung: str) -> None:
    code = "import sys\nfor i in range(100_000): print('x' * 40, i)\nprint('last', file=sys.stderr)"
    result = jailed(tmp_path, code, rung)

    assert (result.ended, result.exit_code, result.stderr_tail) == ("exited", 0, "last\n")
    assert len(result.stdout_tail) == 16_384
    assert result.stdout_tail.endswith("x 99999\n")


@pytest.mark.parametrize("rung", EVERY)
def test_a_file_that_grows_too_large_is_an_error_inside_the_program(tmp_path: Path, rung: str) -> None:
    result = jailed(tmp_path, "open('big', 'wb').write(bytes(20_000_000))", rung)

    assert "File too large" in result.stderr_tail
    assert (tmp_path / "big").stat().st_size <= LIMITS.file_mb * 2**20


@pytest.mark.parametrize("rung", EVERY)
def test_the_watcher_of_the_caller_can_stop_the_program(tmp_path: Path, rung: str) -> None:
    code = "import time\nopen('up', 'w').close()\ntime.sleep(60)"
    result = jailed(tmp_path, code, rung, on_tick=lambda: "far too slow" if (tmp_path / "up").exists() else None)

    assert (result.ended, result.reason, result.exit_code) == ("stopped", "far too slow", None)


@pytest.mark.parametrize("rung", EVERY)
def test_a_killed_guard_is_a_kill_from_outside(tmp_path: Path, rung: str) -> None:
    def kill() -> None:
        for pid in alive("guard.py"):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                os.kill(pid, signal.SIGKILL)

    result = jailed(tmp_path, "import time; time.sleep(30)", rung, on_tick=kill)

    assert result.is_killed_from_outside, result


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

"""Running one untrusted command: limits, capture, watchdog, and an end that leaves no process behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from arch_search.errors import JailError
from arch_search.jail import guard
from arch_search.jail.files import free_name
from arch_search.jail.leftovers import kill_leftovers
from arch_search.jail.rungs import accelerators, best_rung, bwrap_failure, bwrap_order, landlock_order, open_order
from arch_search.jail.watch import TreeUse, folder_use, tree_use, user_tasks

Ended = Literal["exited", "timed_out", "out_of_memory", "stopped", "signalled"]

_TAIL_BYTES = 16_384
_WATCH_EVERY_S = 0.1
_TICK_EVERY_S = 0.5
_READ_BYTES = 65_536
# slows a program that floods its output to about 30 MB/s instead of spending a core on reading it
_READ_PAUSE_S = 0.002
_LEAVE_LIMIT_S = 10.0
_COUNT_EVERY_S = 0.3
# counting a folder of four thousand files takes some 10 ms
_COUNT_SHARE = 0.05
# a checkpoint beside the one it replaces, the results, and what compilers leave
_LARGEST_FILES, _MOST_FILES = 8, 4_000
# address space is not memory: torch reserves several GB that it never touches
_ADDRESS_SPACE_FACTOR, _ADDRESS_SPACE_EXTRA_GB = 4, 16
_KEPT_VARIABLES = ("LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`memory_gb`, `cpu_s` and `processes` (with threads) hold for the whole tree, `file_mb` for each file.

    The folder of the program may hold eight files' worth of `file_mb` and four thousand names.
    """

    wall_s: float
    cpu_s: float
    memory_gb: float
    file_mb: float
    processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JailResult:
    """How a command ended. `exit_code` is None unless it exited; `reason` is one line, empty where it exited."""

    exit_code: int | None
    ended: Ended
    reason: str
    signal: int | None
    wall_s: float
    cpu_s: float
    peak_memory_mb: float
    stdout_tail: str
    stderr_tail: str
    rung: str

    @property
    def is_killed_from_outside(self) -> bool:
        """SIGKILL that was not ours: an operator, the kernel short of memory, or the program itself."""
        return self.ended == "signalled" and self.signal == signal.SIGKILL


def run_jailed(
    command: Sequence[str],
    *,
    workdir: Path,
    readable: Sequence[Path],
    limits: Limits,
    environment: Mapping[str, str],
    rung: str,
    on_tick: Callable[[], str | None] | None = None,
) -> JailResult:
    """Runs `command` with `workdir` as its folder and the only place it can write; returns when all of it is gone.

    The program sees `readable` and the system's libraries, the variables in `environment` and a minimal base, no
    network, and dies with this process.

    Args:
        command: absolute path of a program, then its arguments.
        rung: "auto" or a rung of jail/rungs.py.
        on_tick: called about twice a second; a returned text stops the program with that reason.

    Raises:
        JailError: the rung does not work here, or the program could not be started at all.
    """
    rung = best_rung(rung)
    workdir = workdir.resolve()
    if not os.path.isabs(command[0]) or not os.access(command[0], os.X_OK):
        raise JailError(f"{command[0]} is not an executable; give its absolute path")
    _make_tmp(workdir)
    mode = workdir.stat().st_mode
    started = time.monotonic()
    try:
        with _Tree(workdir, limits=limits, on_tick=on_tick) as tree:
            tree.start(_order(command, workdir, readable, limits, environment, rung))
            tree.watch()
    finally:
        # the program may have closed its own folder to its user; a newer start may have taken the folder away
        with suppress(FileNotFoundError):
            workdir.chmod(mode)
    report = tree.report()
    if tree.stopped is None and _looks_like_bwrap(rung, report, tree) and (said := bwrap_failure(workdir, readable)):
        raise JailError(f"bwrap could not build the jail: {said}")
    return _result(report, tree, rung, wall_s=time.monotonic() - started)


class _Tree:
    """The guard, its pipes and the watchdog; leaving the block kills whatever still runs."""

    def __init__(self, folder: Path, *, limits: Limits, on_tick: Callable[[], str | None] | None) -> None:
        self._folder = folder
        self._limits = limits
        self._on_tick = on_tick
        self._guard: subprocess.Popen[bytes] | None = None
        self._status = b""
        self._tails = [bytearray(), bytearray()]
        self.stopped: tuple[Ended, str] | None = None
        self.cpu_s = 0.0
        self.peak_memory_mb = 0.0

    def __enter__(self) -> _Tree:
        self._status_read, self._status_write = os.pipe()
        self._lifeline_read, self._lifeline_write = os.pipe()
        return self

    def __exit__(self, *ignored: object) -> None:
        os.close(self._lifeline_write)
        if self._guard is not None:
            self._end_guard(self._guard)
        os.close(self._status_read)

    def start(self, order: Mapping[str, Any]) -> None:
        passed = (self._status_write, self._lifeline_read)
        command = [sys.executable, "-I", "-S", guard.__file__, *map(str, passed)]
        try:
            self._guard = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=passed,
                env={"PATH": "/usr/bin:/bin", **_kept_variables()},
                start_new_session=True,
            )
        finally:
            for descriptor in passed:
                os.close(descriptor)
        for stream in self._streams():
            os.set_blocking(stream.fileno(), False)
        line = (json.dumps({**order, "rlimits": _rlimits(self._limits)}) + "\n").encode()
        while line:
            line = line[os.write(self._lifeline_write, line) :]

    def watch(self) -> None:
        """Returns when the program has ended and its tree is gone, or is about to be killed on leaving the block."""
        assert self._guard is not None
        begun = time.monotonic()
        next_watch = next_count = begun
        next_tick = begun + _TICK_EVERY_S
        while self._collect(next_watch - time.monotonic()):
            now = time.monotonic()
            if now >= next_watch:
                next_watch = now + _WATCH_EVERY_S
                self.stopped = self._exceeded(self._use(self._guard.pid), now - begun)
            if self.stopped is None and now >= next_count:
                self.stopped = self._overfull(self._guard.pid)
                counted = time.monotonic()
                next_count = counted + max(_COUNT_EVERY_S, (counted - now) / _COUNT_SHARE)
            if self.stopped is None and now >= next_tick and self._on_tick is not None:
                next_tick = now + _TICK_EVERY_S
                reason = self._on_tick()
                self.stopped = None if reason is None else ("stopped", reason)
            if self.stopped is not None:
                return

    def report(self) -> dict[str, Any]:
        """What the guard wrote; empty when it was killed before the program ended."""
        told: dict[str, Any] = {}
        for line in self._status.splitlines():
            told |= json.loads(line)
        if "error" in told:
            raise JailError(f"the jail could not start the program: {told['error']}")
        return told

    def tail(self, stream: int) -> str:
        return self._tails[stream].decode("utf-8", errors="replace")

    def _use(self, root: int) -> TreeUse:
        limits = self._limits
        return tree_use(root, enough=limits.processes + 1, doubtful_mb=limits.memory_gb * 1024)

    def _exceeded(self, use: TreeUse, wall_s: float) -> tuple[Ended, str] | None:
        self.cpu_s = max(self.cpu_s, use.cpu_s)
        self.peak_memory_mb = max(self.peak_memory_mb, use.memory_mb)
        limits = self._limits
        if use.tasks > limits.processes:
            return "stopped", f"ran more than {limits.processes} processes and threads"
        if use.memory_mb > limits.memory_gb * 1024:
            return "out_of_memory", f"used {use.memory_mb:.0f} MB of memory, allowed are {limits.memory_gb * 1024:.0f}"
        if use.cpu_s > limits.cpu_s:
            return "timed_out", f"used {use.cpu_s:.0f} CPU-seconds, allowed are {limits.cpu_s:.0f}"
        if wall_s > limits.wall_s:
            return "timed_out", f"ran {wall_s:.0f} s, allowed are {limits.wall_s:.0f}"
        return None

    def _overfull(self, root: int) -> tuple[Ended, str] | None:
        use = folder_use(self._folder, enough=_MOST_FILES + 1, root=root)
        most_mb = _LARGEST_FILES * self._limits.file_mb
        if use.disk_mb > most_mb:
            return "stopped", f"wrote {use.disk_mb:.0f} MB into its folder, allowed are {most_mb:.0f}"
        if use.files > _MOST_FILES:
            return "stopped", f"made more than {_MOST_FILES} files"
        if use.is_hidden:
            return "stopped", "made a folder that cannot be counted (no right to list it, or nested too deep)"
        return None

    def _collect(self, wait_s: float) -> bool:
        """Reads what has come within `wait_s`; false once the guard has closed its status: all is over."""
        open_ends = {stream.fileno(): index for index, stream in enumerate(self._streams()) if not stream.closed}
        ready, _, _ = select.select([self._status_read, *open_ends], [], [], max(0.0, wait_s))
        for descriptor in open_ends.keys() & set(ready):
            self._keep_tail(open_ends[descriptor], self._streams()[open_ends[descriptor]])
        if self._status_read not in ready:
            time.sleep(_READ_PAUSE_S if ready else 0.0)
            return True
        piece = os.read(self._status_read, _READ_BYTES)
        self._status += piece
        return bool(piece)

    def _keep_tail(self, index: int, stream: IO[bytes]) -> int:
        try:
            piece = os.read(stream.fileno(), _READ_BYTES)
        except BlockingIOError:
            return 0
        if not piece:
            stream.close()
        kept = self._tails[index]
        kept += piece
        del kept[:-_TAIL_BYTES]
        return len(piece)

    def _streams(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._guard is not None
        assert self._guard.stdout is not None
        assert self._guard.stderr is not None
        return self._guard.stdout, self._guard.stderr

    def _end_guard(self, process: subprocess.Popen[bytes]) -> None:
        """The tree first: the guard must live to reap it and to keep orphans below itself."""
        gone = guard.kill_descendants(process.pid) if process.poll() is None else True
        try:
            process.wait(_LEAVE_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if process.returncode < 0:  # it was killed, and could not see to the end of its tree
            gone &= kill_leftovers(self._folder)
        while piece := os.read(self._status_read, _READ_BYTES):
            self._status += piece
        for index, stream in enumerate(self._streams()):
            while not stream.closed and self._keep_tail(index, stream):
                pass
            stream.close()
        if not gone:
            raise JailError("a jailed program could not be killed within ten seconds; its processes wait in the kernel")


def _make_tmp(workdir: Path) -> None:
    tmp = workdir / "tmp"
    if tmp.is_symlink() or not tmp.is_dir():
        free_name(tmp)
        tmp.mkdir()


def _order(
    command: Sequence[str],
    workdir: Path,
    readable: Sequence[Path],
    limits: Limits,
    environment: Mapping[str, str],
    rung: str,
) -> dict[str, Any]:
    base = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        **_kept_variables(),
        "HOME": str(workdir),
        "TMPDIR": str(workdir / "tmp"),
        "USER": "jailed",
        "LOGNAME": "jailed",
    }
    if rung == "bwrap":
        confined = bwrap_order(command, folder=workdir, readable=readable)
    elif rung == "landlock":
        confined = landlock_order(command, folder=workdir, readable=readable, protected_pids=(os.getpid(),))
    else:
        confined = open_order(command)
    return confined | {"folder": str(workdir), "environment": base | dict(environment)}


def _kept_variables() -> dict[str, str]:
    """The loader's path, because a site's python may need it, and which GPUs are the task's.

    Nothing that names a session, a job or a secret.
    """
    return {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}


def _rlimits(limits: Limits) -> dict[str, int]:
    address_space = int((limits.memory_gb * _ADDRESS_SPACE_FACTOR + _ADDRESS_SPACE_EXTRA_GB) * 2**30)
    return {
        # CUDA reserves addresses for all memory of host and devices; what is used is counted by the watchdog
        **({} if accelerators() else {"RLIMIT_AS": address_space}),
        # a backstop for the watchdog, which counts the tree: the limit of the kernel is per process
        "RLIMIT_CPU": int(limits.cpu_s) + 10,
        "RLIMIT_FSIZE": int(limits.file_mb * 2**20),
        "RLIMIT_NOFILE": 1024,
        "RLIMIT_CORE": 0,
        # counts every thread of the user on this machine, other jobs included
        "RLIMIT_NPROC": user_tasks(os.getuid()) + limits.processes,
    }


def _looks_like_bwrap(rung: str, report: Mapping[str, Any], tree: _Tree) -> bool:
    """Whether bwrap itself may have failed; a program can print the same, so this is only a reason to try again."""
    return rung == "bwrap" and report.get("code") == 1 and tree.tail(1).startswith("bwrap: ")


def _result(report: Mapping[str, Any], tree: _Tree, rung: str, *, wall_s: float) -> JailResult:
    ended, reason, code = _ending(report, tree.stopped, rung)
    return JailResult(
        exit_code=code if ended == "exited" else None,
        ended=ended,
        reason=reason,
        signal=-code if ended == "signalled" and code else None,
        wall_s=wall_s,
        cpu_s=max(tree.cpu_s, float(report.get("cpu_s", 0.0))),
        peak_memory_mb=tree.peak_memory_mb,
        stdout_tail=tree.tail(0),
        stderr_tail=tree.tail(1),
        rung=rung,
    )


def _ending(report: Mapping[str, Any], stopped: tuple[Ended, str] | None, rung: str) -> tuple[Ended, str, int | None]:
    if stopped is not None:
        return *stopped, None
    if "code" not in report:
        return "signalled", "the guard of the jail was killed", -int(signal.SIGKILL)
    code = int(report["code"])
    # bwrap reports the death of its program by a signal as 128 + the signal, as shells do
    if rung == "bwrap" and code > 128 and code - 128 in set(signal.Signals):
        code = 128 - code
    if code >= 0:
        return "exited", "", code
    return "signalled", f"was ended by {signal.Signals(-code).name}", code

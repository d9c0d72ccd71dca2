"""The process between the supervisor and a jailed program: sets it up, outlives it, leaves nothing running.

Run by path (`python -I -S guard.py STATUS_FD LIFELINE_FD`), so it needs the standard library only. It is the subreaper
of everything the program starts: a daemon that forks twice still ends here. The first line on the lifeline is the
order (JSON); the end of the lifeline means that the supervisor is gone, and the tree goes with it. When the program
has ended the guard writes one JSON line on the status descriptor and exits.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS = 1, 22, 24, 28
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_SECCOMP_MODE_FILTER = 2
_NO_ROOT_LOCKED = 0x3 | 0xC  # SECBIT_NOROOT, SECBIT_NO_SETUID_FIXUP, both locked: uid 0 gains nothing by exec
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_KILL_ROUNDS = 2000
_KILL_PAUSE_S = 0.005
_KILL_AT_ONCE = 200
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_libc = ctypes.CDLL(None, use_errno=True)


def descendants(root: int, *, enough: int = 1_000_000) -> list[int]:
    """Processes below `root`, parents before children; stops once `enough` are found, for a tree that still grows."""
    children = _children if Path("/proc/thread-self/children").exists() else _children_by_scan()
    found: list[int] = []
    waiting = [root]
    while waiting and len(found) < enough:
        below = children(waiting.pop())
        found += below
        waiting += below
    return found


def kill_descendants(root: int, *, reap: Callable[[], object] = lambda: None) -> bool:
    """Kills everything below `root` until nothing is left; false when something survives for ten seconds.

    `root` must be the subreaper of the tree; it reaps while this runs, or is this process and passes `reap`.
    """
    keep = {os.getpgrp(), _group(root)}
    for _ in range(_KILL_ROUNDS):
        living = [pid for pid in descendants(root, enough=_KILL_AT_ONCE) if not _is_zombie(pid)]
        # a group dies in one step, so a program that forks faster than this walks does not escape
        for group in {_group(pid) for pid in living} - keep:
            # -0 and -1 would mean our own group and every process of the user
            if group > 1:
                _signal(-group, signal.SIGKILL)
        for pid in living:
            _signal(pid, signal.SIGKILL)
        reap()
        if not living:
            return True
        time.sleep(_KILL_PAUSE_S)
    return False


def landlock_abi() -> int:
    """Version of Landlock that this kernel offers; 0 when it has none or it is switched off."""
    version = _libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    return max(0, int(version))


def main() -> int:
    status, lifeline = int(sys.argv[1]), int(sys.argv[2])
    for descriptor in (status, lifeline):
        os.set_inheritable(descriptor, False)
    # Slurm sends its signals to every process of a job; the supervisor alone decides what they mean for the program
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    order = _read_order(lifeline)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    child = _start(order, status=status)
    ended = _wait(child, lifeline=lifeline, woken=woken)
    kill_descendants(os.getpid(), reap=lambda: _reap(child))
    if ended is None:
        return 1
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = {"code": os.waitstatus_to_exitcode(ended), "cpu_s": usage.ru_utime + usage.ru_stime}
    os.write(status, (json.dumps(report) + "\n").encode())
    return 0


def _read_order(lifeline: int) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(lifeline, 65536)
        if not piece:
            raise SystemExit(1)
        line += piece
    order: dict[str, Any] = json.loads(line)
    return order


def _start(order: dict[str, Any], *, status: int) -> int:
    """Forks the program; what goes wrong before exec is told on the status descriptor as {"error": ...}."""
    guard = os.getpid()
    passed = {int(name): base64.b64decode(data) for name, data in order["inputs"].items()}
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Python ignores these two and exec would hand that on
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        for number, data in passed.items():
            _offer(number, data)
        _confine_and_exec(order)
    except BaseException as error:
        os.write(status, (json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n").encode())
    os._exit(1)


def _offer(number: int, data: bytes) -> None:
    """Makes `data` readable on descriptor `number` in the program that exec starts."""
    source, sink = os.pipe()
    os.write(sink, data)
    os.close(sink)
    if source != number:
        os.dup2(source, number, inheritable=True)
        os.close(source)
    os.set_inheritable(number, True)


def _confine_and_exec(order: dict[str, Any]) -> NoReturn:
    os.chdir(order["folder"])
    os.umask(0o077)
    for name, value in order["rlimits"].items():
        _lower_limit(getattr(resource, name), value)
    if order["landlock"] is not None:
        _drop_capabilities()
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _restrict_files(order["landlock"]["readable"], order["landlock"]["writable"])
        _filter_calls(base64.b64decode(order["landlock"]["filter"]))
    command = order["command"]
    os.execve(command[0], command, order["environment"])


def _lower_limit(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


def _drop_capabilities() -> None:
    """A jail started by root runs as root without a capability; an ordinary user has none to drop."""
    if os.geteuid() != 0:
        return
    for capability in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _prctl(_PR_SET_SECUREBITS, _NO_ROOT_LOCKED)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset refused")


class _RulesetAttributes(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathAttributes(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
# rights that a rule on a plain file may carry; others make the kernel answer EINVAL
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | 1 << 15


def _restrict_files(readable: list[str], writable: list[str]) -> None:
    """Landlock: read below `readable`, everything below `writable`, no TCP, no signals or sockets to the outside."""
    abi = landlock_abi()
    if abi < 1:
        raise OSError("this kernel offers no Landlock")
    # ABI 1 knows 13 file rights; 2 adds linking between folders, 3 truncation, 5 ioctl on devices
    handled = (1 << 13) - 1 | (1 << 13 if abi >= 2 else 0) | (1 << 14 if abi >= 3 else 0) | (1 << 15 if abi >= 5 else 0)
    attributes = _RulesetAttributes(handled, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _libc.syscall(_LANDLOCK_CREATE, ctypes.byref(attributes), size, 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset failed")
    for path in readable:
        _allow(ruleset, path, _EXECUTE | _READ_FILE | _READ_DIR)
    for path in writable:
        _allow(ruleset, path, handled)
    if _libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self failed")
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        # a path that is not there cannot be read anyway
        return
    if not Path(path).is_dir():
        rights &= _ON_FILES
    rule = _PathAttributes(rights, parent)
    refused = _libc.syscall(_LANDLOCK_ADD, ruleset, 1, ctypes.byref(rule), 0)
    os.close(parent)
    if refused:
        raise OSError(ctypes.get_errno(), f"landlock_add_rule failed for {path}")


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _filter_calls(program: bytes) -> None:
    description = _FilterProgram(len(program) // 8, program)
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(description), 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel refused the system-call filter")


def _wait(child: int, *, lifeline: int, woken: int) -> int | None:
    """Wait status of `child` once it has ended; None when the supervisor went first. Reaps orphans on the way."""
    while True:
        ended = _reap(child)
        if ended is not None:
            return ended
        ready, _, _ = select.select([lifeline, woken], [], [], 1.0)
        if lifeline in ready and not os.read(lifeline, 4096):
            return None
        if woken in ready:
            os.read(woken, 4096)


def _reap(child: int) -> int | None:
    ended = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        if pid == child:
            ended = status


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
        except OSError:
            continue
        found += [int(word) for word in text.split()]
    return found


def _children_by_scan() -> Callable[[int], list[int]]:
    """For kernels built without CONFIG_PROC_CHILDREN: one pass over every process of the machine."""
    by_parent: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        by_parent.setdefault(int(fields[1]), []).append(int(name))
    return lambda pid: by_parent.get(pid, [])


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def _group(pid: int) -> int:
    """Process group of `pid`; this process's own where `pid` is gone."""
    try:
        return os.getpgid(pid)
    except OSError:
        return os.getpgrp()


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}) refused")


if __name__ == "__main__":
    sys.exit(main())

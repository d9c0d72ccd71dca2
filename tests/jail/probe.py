"""The probes of the jail: short programs that try to get out, to take too much or to stay, and what must hold.

Each is bounded by itself (at most 64 processes, 400 MB of memory, 100 MB of disk, seconds): a jail that fails must cost
a test, not the machine. `tried` prints what got through, `needed` what an honest program would miss; a probe says
`end` when it came to its end. What FACTS holds is made by probing.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from arch_search.jail import Limits

SMALL = Limits(wall_s=30, cpu_s=20, memory_gb=0.2, file_mb=4, processes=32)

PRELUDE = '''
import ctypes, errno, json, os, sys, time
FACTS = json.loads(sys.argv[1])
LIBC = ctypes.CDLL(None, use_errno=True)
HERE = os.getcwd()

def tried(name, act):
    try:
        act()
    except OSError:
        return
    print("through", name, flush=True)

def needed(name, act):
    try:
        act()
    except Exception as error:
        print("broken", name, repr(error)[:200], flush=True)

def call(number, *words):
    """A system call by its number on x86_64."""
    answer = LIBC.syscall(ctypes.c_long(number), *[word if isinstance(word, bytes) else ctypes.c_long(word)
                                                   for word in words])
    if answer == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return answer

def reached(name, number, *words):
    """The kernel looked at the arguments: the filter let the call pass."""
    try:
        call(number, *words)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS):
            return
    print("through", name, flush=True)

def in_a_child(act):
    """For what may end the process: an error unless a child does it and leaves with 0."""
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        except BaseException:
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise OSError("did not succeed")

def outer(pid):
    """`pid` of the supervisor's world, where the program can name it at all."""
    if os.readlink("/proc/self/ns/pid") != FACTS["pid_namespace"]:
        raise ProcessLookupError(pid)
    return pid

def shown(pid):
    """`pid` of the supervisor's world, where /proc shows that world."""
    return outer(pid) if os.readlink("/proc/self") == str(os.getpid()) else pid
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """`open_on` records, by rung, the steps that are known to get through and that THREATS.md calls not defended.

    `everywhere` marks what holds on every rung, off included; the other probes must get through where nothing is
    confined, or they would prove nothing. `kernel_says` is an error that also ends the attempt, instead of the
    watchdog. `again` runs a second program in the same folder.
    """

    name: str
    code: str
    ended: tuple[str, ...] = ("exited",)
    reason: str = ""
    kernel_says: str = ""
    limits: Limits = SMALL
    open_on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    everywhere: bool = False
    again: bool = False

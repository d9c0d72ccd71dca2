"""The system-call filter of a jail, as classic BPF: what a token mixer never needs and an escape would.

A refused call returns EPERM; clone3, whose flags a filter cannot read, returns ENOSYS so that libc falls back to clone.
Source of the layout: linux/seccomp.h and linux/filter.h; numbers from asm/unistd_64.h and asm-generic/unistd.h.
"""

from __future__ import annotations

import errno
import platform
import struct

from arch_search.errors import JailError

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_X32_CALLS = 0x40000000
_CLONE_NEW_ANYTHING = 0x7E020000  # all CLONE_NEW* flags but CLONE_NEWTIME, which clone(2) does not take
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK = 1, 1, 0xF
_PR_SET_DUMPABLE = 4
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_LARGEST_PID = 0x7FFFFFFF


# Refused whatever the arguments. Numbers: x86_64, aarch64 (None where that machine has no such call).
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429), "open_tree": (428, 428),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280), "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "userfaultfd": (323, 282), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "execveat": (322, 281), "kexec_load": (246, 104),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186), "msgsnd": (69, 189),
    "msgrcv": (70, 188), "msgctl": (71, 187), "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192),
    "semctl": (66, 191), "mq_open": (240, 180), "mq_unlink": (241, 181), "fanotify_init": (300, 262),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "acct": (163, 89), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "quotactl": (179, 60), "quotactl_fd": (443, 443), "modify_ldt": (154, None),
    "syslog": (103, 116), "mknod": (133, None), "mknodat": (259, 33), "personality": (135, 92),
}  # fmt: skip
# Landlock does not cover the metadata of files outside, nor of those that can only be read; namespaces hide those
# files. Without a pid namespace the program must stay in its process group, which the watchdog kills in one step, and
# would reach the priority and the pages of every process of the user.
_REFUSED_ON_A_SHARED_TREE: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "lchown": (94, None),
    "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fchmod": (91, 52), "fchown": (93, 55), "fsetxattr": (190, 7),
    "fremovexattr": (199, 16), "setxattrat": (463, 463), "removexattrat": (466, 466), "file_setattr": (469, 469),
    "truncate": (76, 45), "setsid": (112, 157), "setpgid": (109, 154), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "inotify_init": (253, None), "inotify_init1": (294, 26),
    "setpriority": (141, 140), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274), "ioprio_set": (251, 30), "migrate_pages": (256, 238), "move_pages": (279, 239),
}  # fmt: skip
_INSPECTED = {
    "clone": (56, 220), "clone3": (435, 435), "socketpair": (53, 199), "prlimit64": (302, 261), "kill": (62, 129),
    "tkill": (200, 130), "tgkill": (234, 131), "ioctl": (16, 29), "prctl": (157, 167),
    "sched_setaffinity": (203, 122),
}  # fmt: skip
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def filter_bytes(*, shared_tree: bool, protected_pids: tuple[int, ...] = ()) -> bytes:
    """The filter as an array of struct sock_filter, for prctl(PR_SET_SECCOMP) or bwrap --seccomp.

    Args:
        shared_tree: the program sees the user's real files and processes (no namespaces): calls that change the
            metadata of a path or leave the process group are refused too.
        protected_pids: processes that may not be signalled; needed where the program shares our process ids.

    Raises:
        JailError: no table for this machine's architecture.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise JailError(f"no system-call filter for {machine}; known: {', '.join(_MACHINES)}; use jail.rung=off")
    column, audit = _MACHINES[machine]
    refused = _REFUSED | (_REFUSED_ON_A_SHARED_TREE if shared_tree else {})
    calls = {name: numbers[column] for name, numbers in _INSPECTED.items()}
    program = [_step(_LOAD, 4), _step(_JUMP_EQUAL, audit, 1, 0), _step(_RETURN, _KILL_PROCESS), _step(_LOAD, 0)]
    if machine == "x86_64":
        program += [_step(_JUMP_AT_LEAST, _X32_CALLS, 0, 1), _step(_RETURN, _KILL_PROCESS)]
    for numbers in refused.values():
        number = numbers[column]
        if number is not None:
            program += [_step(_JUMP_EQUAL, number, 0, 1), _step(_RETURN, _ERRNO | errno.EPERM)]
    program += [_step(_JUMP_EQUAL, calls["clone3"], 0, 1), _step(_RETURN, _ERRNO | errno.ENOSYS)]
    program += _when(calls["clone"], _refuse_bits(0, _CLONE_NEW_ANYTHING))
    program += _when(calls["socketpair"], _refuse_unless_stream_pair())
    program += _when(calls["prlimit64"], _refuse_unless_zero(0))
    program += _when(calls["ioctl"], _refuse_values(1, (_TIOCSTI, _TIOCLINUX)))
    # the watchdog could not look into a process that is not dumpable
    program += _when(calls["prctl"], _refuse_values(0, (_PR_SET_DUMPABLE,)))
    if shared_tree:
        program += _when(calls["sched_setaffinity"], _refuse_unless_zero(0))
    if protected_pids:
        for name in ("kill", "tkill", "tgkill"):
            program += _when(calls[name], _refuse_signals(protected_pids))
    return b"".join([*program, _step(_RETURN, _ALLOW)])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _when(call: int, body: list[bytes]) -> list[bytes]:
    """`body` for this call only; it ends in a return, so the call number need not be loaded again."""
    return [_step(_JUMP_EQUAL, call, 0, len(body)), *body]


def _low_word(argument: int) -> bytes:
    return _step(_LOAD, 16 + 8 * argument)


def _high_word(argument: int) -> bytes:
    return _step(_LOAD, 20 + 8 * argument)


def _refuse_bits(argument: int, bits: int) -> list[bytes]:
    return [_low_word(argument), _step(_AND, bits), _step(_JUMP_EQUAL, 0, 1, 0), *_refuse_or_allow()]


def _refuse_unless_stream_pair() -> list[bytes]:
    """A datagram socket, which AF_UNIX also makes of SOCK_RAW, can send to any other socket by name."""
    return [
        _low_word(0),
        _step(_JUMP_EQUAL, _AF_UNIX, 0, 3),
        _low_word(1),
        _step(_AND, _SOCK_TYPE_MASK),
        _step(_JUMP_EQUAL, _SOCK_STREAM, 1, 0),
        *_refuse_or_allow(),
    ]


def _refuse_unless_zero(argument: int) -> list[bytes]:
    return [
        _low_word(argument),
        _step(_JUMP_EQUAL, 0, 0, 2),
        _high_word(argument),
        _step(_JUMP_EQUAL, 0, 1, 0),
        *_refuse_or_allow(),
    ]


def _refuse_values(argument: int, values: tuple[int, ...]) -> list[bytes]:
    tests = [_step(_JUMP_EQUAL, value, len(values) - 1 - i, 0) for i, value in enumerate(values)]
    return [_low_word(argument), *tests[:-1], _step(_JUMP_EQUAL, values[-1], 0, 1), *_refuse_or_allow()]


def _refuse_signals(pids: tuple[int, ...]) -> list[bytes]:
    """Refuses the given targets and every negative one: a group, or everything the user owns."""
    tests = [_step(_JUMP_EQUAL, pid, len(pids) - i, 0) for i, pid in enumerate(pids)]
    return [_low_word(0), *tests, _step(_JUMP_AT_LEAST, _LARGEST_PID + 1, 0, 1), *_refuse_or_allow()]


def _refuse_or_allow() -> list[bytes]:
    return [_step(_RETURN, _ERRNO | errno.EPERM), _step(_RETURN, _ALLOW)]

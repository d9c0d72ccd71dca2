"""The ladder of isolation: which rung this machine can give, and the order to the guard that each rung needs.

bwrap: own mount, pid, network, ipc and user namespaces, and a filter on system calls.
landlock: the user's real tree, of which only the given paths can be read and one folder written; no sockets.
off: limits and clean environment only; never chosen unless the user asks for it.
"""

from __future__ import annotations

import base64
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from glob import glob
from pathlib import Path
from typing import Any

from arch_search.errors import JailError
from arch_search.jail.guard import landlock_abi
from arch_search.jail.seccomp import filter_bytes

LADDER = ("bwrap", "landlock")
_FILTER_DESCRIPTOR = 100
_SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# what the loader, libc and torch read; the rest of /etc names machines and users
_SYSTEM_FILES = (
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime",
    "/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/sys/devices/system",
)  # fmt: skip
# where a node has accelerators the program may use them; their drivers are then within its reach
_ACCELERATORS = ("/dev/nvidia*", "/dev/nvidia-caps/*", "/dev/kfd", "/dev/dri/render*")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_PROBE_LIMIT_S = 20


def best_rung(wanted: str) -> str:
    """The rung to use: `wanted` itself, or for "auto" the best one that works here.

    Raises:
        JailError: the wanted rung, or every rung, does not work on this machine; says why.
    """
    if wanted == "off":
        return wanted
    reasons = {rung: why_not(rung) for rung in (LADDER if wanted == "auto" else (wanted,))}
    for rung, reason in reasons.items():
        if not reason:
            return rung
    told = "; ".join(f"{rung}: {reason}" for rung, reason in reasons.items())
    raise JailError(f"no jail for model-written programs ({told}); install bubblewrap, or accept the risk by jail=off")


@cache
def why_not(rung: str) -> str:
    """Why `rung` does not work on this machine; empty when it does."""
    if rung == "bwrap":
        return _why_no_bwrap()
    if rung == "landlock":
        return "" if landlock_abi() >= 1 else "the kernel offers no Landlock"
    return f"unknown rung; known: auto, {', '.join(LADDER)}, off"


def accelerators() -> list[str]:
    """Device nodes of the accelerators of this machine; a program of the search may open them."""
    found = (path for pattern in _ACCELERATORS for path in sorted(glob(pattern)))
    return [path for path in found if stat.S_ISCHR(os.stat(path).st_mode)]


def bwrap_order(command: Sequence[str], *, folder: Path, readable: Sequence[Path]) -> dict[str, Any]:
    """Rung-dependent part of the guard's order: the command wrapped in bwrap, the filter on a descriptor."""
    call_filter = filter_bytes(shared_tree=False)
    return {
        "command": [*_bwrap_command(folder, readable), "--seccomp", str(_FILTER_DESCRIPTOR), "--", *command],
        "inputs": {str(_FILTER_DESCRIPTOR): base64.b64encode(call_filter).decode()},
        "landlock": None,
    }


def landlock_order(
    command: Sequence[str], *, folder: Path, readable: Sequence[Path], protected_pids: tuple[int, ...]
) -> dict[str, Any]:
    """Rung-dependent part of the guard's order: what to open, which calls to refuse."""
    call_filter = filter_bytes(shared_tree=True, protected_pids=protected_pids)
    system = [path for path in (*_SYSTEM_FOLDERS, *_SYSTEM_FILES) if os.path.exists(path)]
    return {
        "command": list(command),
        "inputs": {},
        "landlock": {
            "readable": [*system, "/proc", *map(str, readable)],
            "writable": [str(folder), *_DEVICES, *accelerators()],
            "filter": base64.b64encode(call_filter).decode(),
        },
    }


def open_order(command: Sequence[str]) -> dict[str, Any]:
    """Rung-dependent part of the guard's order where nothing is confined."""
    return {"command": list(command), "inputs": {}, "landlock": None}


def bwrap_failure(folder: Path, readable: Sequence[Path]) -> str:
    """What bwrap itself says when it starts nothing but `true` with these mounts; empty when that works."""
    try:
        tried = subprocess.run(
            [*_bwrap_command(folder, readable), "--", "/usr/bin/env", "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if tried.returncode == 0 else tried.stderr.decode(errors="replace").strip().splitlines()[-1]


def _why_no_bwrap() -> str:
    if shutil.which("bwrap") is None:
        return "bwrap is not installed"
    with tempfile.TemporaryDirectory() as folder:
        return bwrap_failure(Path(folder), ())


@cache
def _bwrap_options() -> str:
    return subprocess.run(["bwrap", "--help"], capture_output=True, text=True, timeout=_PROBE_LIMIT_S).stdout


def _bwrap_command(folder: Path, readable: Sequence[Path]) -> list[str]:
    program = shutil.which("bwrap")
    if program is None:
        raise JailError("bwrap is not installed; install bubblewrap or choose another jail.rung")
    options = [program, "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    # older releases lack it; the call filter refuses new user namespaces as well
    if "--disable-userns" in _bwrap_options():
        options += ["--disable-userns"]
    for path in _SYSTEM_FOLDERS:
        if os.path.islink(path):
            options += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            options += ["--ro-bind", path, path]
    for path in _SYSTEM_FILES:
        if os.path.exists(path):
            options += ["--ro-bind", os.path.realpath(path), path]
    # started by root, the program owns the settings of the kernel: below /proc/sys the owner needs no capability
    options += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev"]
    for node in accelerators():
        options += ["--dev-bind", node, node]
    options += ["--remount-ro", "/dev"]
    options += _binds(folder, readable)
    return [*options, "--remount-ro", "/", "--chdir", str(folder)]


def _binds(folder: Path, readable: Sequence[Path]) -> list[str]:
    """Parents before children, each under its own name and, where links lead to it, under its real one."""
    mounts: dict[str, tuple[str, str]] = {}
    for kind, path in [*(("--ro-bind", path) for path in readable), ("--bind", folder)]:
        real = os.path.realpath(path)
        for name in (real, os.path.abspath(path)):
            mounts[name] = (kind, real)
    ordered = sorted(mounts, key=lambda name: (name.count("/"), name))
    return [word for name in ordered for word in (mounts[name][0], mounts[name][1], name)]

"""Runs probes on the rungs of this machine and says what got through.

`python -m tests.jail.probing WORKDIR RUNG,RUNG... PROBE...` prints one JSON object: by rung and probe, what got through
and how that differs from the record ("auto" is the rung that a work unit would take; no names mean all probes).
Standard library and arch_search.jail only, so that an ordinary user and a node of a cluster can run it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from arch_search.errors import JailError
from arch_search.jail import JailResult, best_rung, jailed_python, read_from_jail, run_jailed
from arch_search.jail.rungs import accelerators
from tests.jail.probe import PRELUDE, Probe
from tests.jail.probes_amounts import AMOUNTS
from tests.jail.probes_files import FILES, SOCKETS
from tests.jail.probes_processes import CALLING, PROCESSES

PROBES = {probe.name: probe for probe in (*FILES, *SOCKETS, *PROCESSES, *CALLING, *AMOUNTS)}
_PRIVATE = ("/etc/shadow", "/etc/munge", "/etc/munge/munge.key", "/etc/slurm", "/etc/slurm/slurm.conf", "/etc/ssh")
_OF_OTHERS = ("/etc/hostname", "/etc/hosts", "/etc/fstab", "/var/log", "/var/lib/dpkg/status")
_RESULTS = ("link", "folder", "device", "large")
_MOST_RESULT_BYTES = 65_536
_TAIL_BYTES = 16_384
_WHOLE_LIMIT_S = 550


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one probe came to: steps that got through, what an honest program would miss, and what else is wrong."""

    through: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """What surrounds the program: a home, a campaign, a neighbour, servers; `facts` is what a probe is told."""

    root: Path
    workdir: Path
    marker: str
    neighbour: subprocess.Popen[bytes]
    facts: dict[str, Any]


def run_probe(probe: Probe, rung: str, folder: Path) -> Finding:
    """Runs the probe in a fresh scene below `folder`; nothing of it is left."""
    with _scene(folder) as scene:
        before = _snapshot(scene.root)
        result = _run(scene, PRELUDE + probe.code + '\nprint("end")\n', probe, rung)
        problems = [*_wrong_ending(probe, result), *_survivors(scene)]
        if probe.again:
            second = _run(scene, 'print("end")', probe, rung)
            # stopped: the folder was found closed, which is the program's own fault
            if second.ended not in ("exited", "stopped"):
                problems.append(f"a second program in the folder {second.ended}: {second.reason}")
        if scene.neighbour.poll() is not None:
            problems.append("the neighbour was ended")
        lines = result.stdout_tail.splitlines()
        through = [line.removeprefix("through ") for line in lines if line.startswith("through ")]
        through += [f"reading {name}" for name in _RESULTS if _is_read(scene.workdir, name)]
        if _snapshot(scene.root) != before:
            through.append("files outside are changed")
        problems += [line for line in lines if line.startswith("broken ")]
    return Finding(through=tuple(through), problems=tuple(problems))


def differences(probe: Probe, rung: str, finding: Finding) -> list[str]:
    """How a finding differs from what the probe records for this rung; empty where the record holds."""
    known = probe.open_on.get(rung, ())
    told = [f"got through: {step}" for step in finding.through if step not in known]
    told += [f"is defended now, so take it out of the record: {step}" for step in known if step not in finding.through]
    return [*told, *finding.problems]


def _run(scene: _Scene, code: str, probe: Probe, rung: str) -> JailResult:
    inside = jailed_python(scene.workdir)
    return run_jailed(
        [sys.executable, "-c", code, json.dumps(scene.facts)],
        workdir=scene.workdir,
        readable=(*inside.readable, scene.root / "library"),
        limits=probe.limits,
        environment=inside.environment,
        rung=rung,
    )


def _wrong_ending(probe: Probe, result: JailResult) -> Iterator[str]:
    if result.ended == "exited" and probe.kernel_says:
        if probe.kernel_says not in result.stderr_tail:
            yield f"exit code {result.exit_code} without a refusal of the kernel: {result.stderr_tail[-500:]}"
    elif result.ended not in probe.ended:
        yield f"ended as {result.ended} ({result.reason}), expected {probe.ended}: {result.stderr_tail[-500:]}"
    elif probe.reason not in result.reason:
        yield f"ended because: {result.reason}"
    elif probe.ended == ("exited",) and (result.exit_code != 0 or "end" not in result.stdout_tail.splitlines()):
        yield f"exit code {result.exit_code}: {result.stdout_tail[-200:]} {result.stderr_tail[-500:]}"
    if max(len(result.stdout_tail), len(result.stderr_tail)) > _TAIL_BYTES:
        yield "more output was kept than allowed"


def _survivors(scene: _Scene) -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or scene.marker.encode() not in (entry / "cmdline").read_bytes():
                continue
        except OSError:
            continue
        if int(entry.name) != scene.neighbour.pid:
            yield f"process {entry.name} is left"


def _is_read(workdir: Path, name: str) -> bool:
    if not os.path.lexists(workdir / name):
        return False
    try:
        read_from_jail(workdir, name, max_bytes=_MOST_RESULT_BYTES)
    except JailError:
        return False
    return True


@contextmanager
def _scene(folder: Path) -> Iterator[_Scene]:
    # short, because it holds the names of sockets
    root = Path(tempfile.mkdtemp(prefix="scene-", dir=folder)).resolve()
    marker = uuid4().hex
    for name in ("home/.ssh", "library", "campaign/tasks/other", "campaign/tasks/own"):
        (root / name).mkdir(parents=True)
    for name in ("home/.ssh/id_ed25519", "home/.netrc", "library/module.py", "campaign/tasks/other/weights"):
        (root / name).write_text("secret")
    (root / "campaign/journal.jsonl").write_text("secret")
    os.environ["HF_TOKEN"] = os.environ["SSH_AUTH_SOCK"] = os.environ["ARCH_SEARCH_API_KEY"] = marker
    servers = _servers(root, marker)
    neighbour = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import time; time.sleep(300)", marker], start_new_session=True
    )
    workdir = root / "campaign/tasks/own"
    try:
        facts = _facts(root, workdir, marker, neighbour.pid, port=servers[-1].getsockname()[1])
        yield _Scene(root=root, workdir=workdir, marker=marker, neighbour=neighbour, facts=facts)
    finally:
        neighbour.kill()
        neighbour.wait()
        for server in servers:
            server.close()
        _remove(root)


def _servers(root: Path, marker: str) -> list[socket.socket]:
    """A stream by path, datagrams by path, a stream by an abstract name, TCP; the port is the last one's."""
    servers = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)]
    servers += [socket.socket(socket.AF_UNIX), socket.socket()]
    addresses = (str(root / "s"), str(root / "d"), f"\0{marker}", ("127.0.0.1", 0))
    for server, address in zip(servers, addresses, strict=True):
        server.bind(address)
        if server.type == socket.SOCK_STREAM:
            server.listen()
    return servers


def _facts(root: Path, workdir: Path, marker: str, neighbour: int, *, port: int) -> dict[str, Any]:
    configuration = Path(os.environ.get("SLURM_CONF", "/etc/slurm/slurm.conf"))
    slurm = _settings(configuration)
    needed = [*jailed_python(workdir).readable, root]
    home = [path for path in _listed(Path.home()) if not any(_overlap(path, other) for other in needed)]
    return {
        "marker": marker,
        "secret": os.environ["HF_TOKEN"],
        "outside": str(root),
        "library": str(root / "library/module.py"),
        "private": [*(path for path in _PRIVATE if os.path.exists(path)), *map(str, home)],
        "of others": [path for path in _OF_OTHERS if os.access(path, os.R_OK)],
        "unix": str(root / "s"),
        "datagrams": str(root / "d"),
        "port": port,
        "slurm": {"SLURM_CONF": str(configuration)} if slurm else {},
        "slurm ports": [int(port) for name, port in slurm.items() if name == "SlurmctldPort" and port.isdigit()],
        "munge": _munge_socket(slurm.get("AuthInfo", "")),
        "supervisor": os.getpid(),
        "neighbour": neighbour,
        "pid_namespace": os.readlink("/proc/self/ns/pid"),
        "accelerators": accelerators(),
    }


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _settings(configuration: Path) -> dict[str, str]:
    try:
        lines = configuration.read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, is_set, value in (line.partition("=") for line in lines) if is_set}


def _munge_socket(auth_info: str) -> str:
    named = [word.removeprefix("socket=") for word in auth_info.split(",") if word.startswith("socket=")]
    return [*named, "/run/munge/munge.socket.2"][0]


def _snapshot(root: Path) -> list[tuple[str, int, int, int, bytes]]:
    """Name, mode, owner, time and content of everything that is not the program's own."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_relative_to(root / "campaign/tasks/own"):
            continue
        about = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        changed = about.st_mtime_ns if path.is_file() else 0
        found.append((str(path), about.st_mode, about.st_uid, changed, content))
    return found


def _remove(root: Path) -> None:
    """Also what a program closed to its own user, and folders nested deeper than rmtree goes."""
    for _ in range(3):
        for folder, _, _ in os.walk(root):
            os.chmod(folder, 0o700)
            for name in os.listdir(folder):
                path = os.path.join(folder, name)
                if os.path.isdir(path) and not os.path.islink(path):
                    os.chmod(path, 0o700)
    shutil.rmtree(root)


def main() -> int:
    folder, rungs, *names = sys.argv[1:]
    signal.alarm(_WHOLE_LIMIT_S)
    found: dict[str, dict[str, Any]] = {}
    for rung in map(best_rung, rungs.split(",")):
        found[rung] = {}
        for name in names or PROBES:
            finding = run_probe(PROBES[name], rung, Path(folder))
            found[rung][name] = {
                "through": finding.through,
                "differences": differences(PROBES[name], rung, finding),
            }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

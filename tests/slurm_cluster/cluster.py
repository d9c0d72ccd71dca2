"""A real Slurm on one machine: munge, MariaDB, slurmdbd, slurmctld and its slurmd, started and taken down by one user.

No systemd, no container, no network namespace. Run as root, it makes an ordinary user for its own lifetime and starts
everything as that user; where that user could not read the interpreter or the program, and when not run as root, the
current user owns the cluster. `python -m tests.slurm_cluster.cluster COMMAND...` runs one command on a fresh one.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType

from tests.owner import REPOSITORY, USER_PREFIX, choose_owner, usable_python
from tests.slurm_cluster.configuration import (
    CGROUP_CONF,
    ClusterOptions,
    gres_conf,
    has_memory_groups,
    remove_memory_groups,
    slurm_conf,
)
from tests.slurm_cluster.configuration import SLURMDBD_CONF as _SLURMDBD_CONF

PROGRAMS = (
    *("munged", "mariadbd", "mariadb", "mariadb-install-db"),
    *("slurmdbd", "slurmctld", "slurmd", "sbatch", "setpriv"),
)
MAX_ARRAY_SIZE = ClusterOptions().max_array_size
_PREFIX = "asx-slurm-"
_PID_FILE = "pid"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SQL = (
    "create database slurm_acct_db; create user 'slurm'@'localhost' identified by 'local'; "
    "grant all on slurm_acct_db.* to 'slurm'@'localhost'; drop user if exists ''@'localhost'"
)


class ClusterError(Exception):
    """The cluster did not start, with the tail of the log that says why."""


def missing_programs() -> tuple[str, ...]:
    """Programs of the Debian packages that this machine lacks; empty when a cluster can be started."""
    return tuple(name for name in PROGRAMS if shutil.which(name, path=_SYSTEM_PATH) is None)


def remove_stale() -> None:
    """Remove the folders and users of clusters whose test run was killed; their daemons have died with it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError, ValueError):
            pid = int((folder / _PID_FILE).read_text())
            if not Path(f"/proc/{pid}").exists():
                shutil.rmtree(folder)
    for user in pwd.getpwall():
        if os.geteuid() == 0 and user.pw_name.startswith(USER_PREFIX) and not Path(user.pw_dir).parent.exists():
            subprocess.run(["userdel", user.pw_name], capture_output=True, check=False)


class SlurmCluster:
    """Context manager around one running cluster; `folder/work` is writable by its user and visible to its jobs."""

    def __init__(self, options: ClusterOptions | None = None) -> None:
        remove_stale()
        self.options = options or ClusterOptions()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        (self.folder / _PID_FILE).write_text(str(os.getpid()))
        self.workdir = self.folder / "work"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.owner = choose_owner(self.folder)
        self.python = sys.executable
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{_SYSTEM_PATH}",
            "HOME": str(self.folder / "home"),
            "USER": self.owner.name,
            "LOGNAME": self.owner.name,
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.folder / "tmp"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ARCH_SEARCH_POLL_LEAST_S": "0",
            "SLURM_CONF": str(self.folder / "etc/slurm.conf"),
        }

    def __enter__(self) -> SlurmCluster:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run_as_user(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` as the user of the cluster, in `folder/work` by default, with `env` over its environment.

        Output is captured; the caller looks at the exit code.
        """
        return subprocess.run(
            self.user_command(command),
            cwd=cwd or self.workdir,
            env={**self.environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def user_command(self, command: Sequence[str]) -> list[str]:
        """`command` as an argument list that runs as the user of the cluster; for Popen, with `environment`."""
        if self.owner.uid == os.geteuid():
            return list(command)
        ids = [f"--reuid={self.owner.uid}", f"--regid={self.owner.gid}", "--clear-groups"]
        return ["setpriv", *ids, *command]

    def make_folder(self, name: str) -> Path:
        """A new folder below `folder/work` that belongs to the user of the cluster."""
        path = self.workdir / name
        path.mkdir()
        os.chown(path, self.owner.uid, self.owner.gid)
        return path

    def stop(self) -> None:
        """Take everything down: jobs, then daemons in reverse order, then whatever else still names the folder."""
        with suppress(OSError, subprocess.SubprocessError, ClusterError):  # it must not hide why the test ended
            self.run_as_user(["scancel", "--user", self.owner.name], timeout_s=10)
            self._wait_for(lambda: not self._ask(["squeue", "-h"]).stdout.strip(), "jobs did not end", limit_s=10)
        for name in reversed([*self._daemons]):
            self.stop_daemon(name)
        _kill_all(self.leftovers)
        if self._slurmd_is_root:
            remove_memory_groups()
        if self.owner.made:
            subprocess.run(["userdel", self.owner.name], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- breaking it

    def stop_daemon(self, name: str, *, sign: signal.Signals = signal.SIGTERM) -> None:
        """End one daemon: slurmctld, slurmdbd, or the slurmd of a node by the node's name. Its jobs live on."""
        daemon = self._daemons.pop(name)
        daemon.send_signal(sign)
        try:
            daemon.wait(timeout=5)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def start_controller(self, *, forgetful: bool = False) -> None:
        """Start slurmctld again; a forgetful one has lost its jobs, and gives their ids to new ones."""
        if forgetful:
            shutil.rmtree(self.folder / "state")
            self._make_owned("state")
        self._spawn(["slurmctld", "-D"])
        self._wait_for(lambda: self._ask(["scontrol", "ping"]).returncode == 0, "slurmctld does not answer")

    def start_accounting(self) -> None:
        """Start slurmdbd again."""
        self._spawn(["slurmdbd", "-D"], env={"MYSQL_UNIX_PORT": str(self.folder / "run/m.sock")})
        self._wait_for(lambda: _accepts(self._database_port), "slurmdbd did not open its port")

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        self._spawn(["slurmd", "-D", "-N", node], name=node, as_root=self._slurmd_is_root)

    def wait_for_nodes(self) -> None:
        """Until every node takes jobs."""
        states, good = ["sinfo", "-h", "-N", "-o", "%T"], {"idle", "mixed", "allocated"}
        self._wait_for(lambda: set(self._ask(states).stdout.split()) <= good, "the nodes did not come up")

    def wrapper(self, program: str, text: str) -> dict[str, str]:
        """An environment in which `program` is this shell text; $real is the program itself."""
        folder = self.make_folder(f"bin-{program}-{secrets.token_hex(4)}")
        path = folder / program
        path.write_text(f"#!/bin/bash\nreal=/usr/bin/{program}\n{text}\n")
        path.chmod(0o755)
        return {"PATH": f"{folder}:{self.environment['PATH']}"}

    def leftovers(self) -> list[int]:
        """Every living process that names the folder in its environment or arguments, or belongs to the made user."""
        mark = os.fsencode(str(self.folder))
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with suppress(OSError):
                if entry.joinpath("stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z":
                    continue
                is_owned = self.owner.made and entry.stat().st_uid == self.owner.uid
                if is_owned or mark in entry.joinpath("environ").read_bytes() + entry.joinpath("cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def _start(self) -> None:
        names = ("etc", "run", "state", "log", "db", "home", "tmp", "work")
        self._make_owned(*names, "spool", *(f"spool/{node}" for node in self.options.node_names))
        self.folder.chmod(0o755)
        self.python = usable_python(self.owner, self.folder, needed="submitit")
        self.environment["PATH"] = f"{Path(self.python).parent}:{_SYSTEM_PATH}"
        ports = _free_ports(2 + self.options.nodes)
        self._database_port = ports[0]
        self._write_configuration(ports)
        self._start_munge()
        if self.options.accounting:
            self._start_database()
            self.start_accounting()
            self._make_associations()
        self._spawn(["slurmctld", "-D"])
        for node in self.options.node_names:
            self.start_node(node)
        idle, all_nodes = ["sinfo", "-h", "-t", "idle", "-p", "main", "-o", "%D"], str(self.options.nodes)
        self._wait_for(lambda: self._ask(idle).stdout.strip() == all_nodes, "the nodes did not become idle")

    def _make_associations(self) -> None:
        """The user's account, with the limit of submitted jobs where one is asked for."""
        user, limit = self.owner.name, f"MaxSubmitJobs={self.options.max_submit_jobs}"
        self._must(["sacctmgr", "-i", "add", "cluster", "asx"])
        self._must(["sacctmgr", "-i", "add", "account", "lab", "Cluster=asx"])
        self._must(["sacctmgr", "-i", "add", "user", user, "Account=lab"])
        if self.options.max_submit_jobs is None:
            return
        if self.options.max_submit_by == "association":
            self._must(["sacctmgr", "-i", "modify", "user", user, "set", limit])
        else:
            self._must(["sacctmgr", "-i", "modify", "qos", "normal", "set", limit.replace("Jobs", "JobsPerUser")])

    def _make_owned(self, *names: str) -> None:
        for path in (self.folder, *(self.folder / name for name in names)):
            path.mkdir(exist_ok=True)
            os.chown(path, self.owner.uid, self.owner.gid)

    def _write_configuration(self, ports: Sequence[int]) -> None:
        host, user = socket.gethostname().split(".")[0], self.owner.name
        slurmd_user = "root" if self._slurmd_is_root else user
        text = slurm_conf(self.options, folder=self.folder, host=host, user=user, slurmd_user=slurmd_user, ports=ports)
        facts = {"host": host, "user": user, "folder": self.folder, "database_port": ports[0]}
        if self._slurmd_is_root:
            self._write("etc/cgroup.conf", CGROUP_CONF.encode(), mode=0o644)
        self._write("etc/slurm.conf", text.encode(), mode=0o644)
        self._write("etc/slurmdbd.conf", _SLURMDBD_CONF.format(**facts).encode(), mode=0o600)
        if self.options.gpus_per_node:
            self._write("etc/gres.conf", gres_conf(self.options).encode(), mode=0o644)
        self._write("etc/munge.key", os.urandom(1024), mode=0o600)

    def _write(self, name: str, data: bytes, *, mode: int) -> None:
        path = self.folder / name
        path.write_bytes(data)
        path.chmod(mode)
        os.chown(path, self.owner.uid, self.owner.gid)

    def _start_munge(self) -> None:
        d = self.folder
        files = {"key": "etc/munge.key", "pid": "run/munged.pid", "log": "log/munged.log", "seed": "run/munged.seed"}
        options = [f"--{kind}-file={d}/{path}" for kind, path in files.items()]
        self._spawn(["munged", "--foreground", f"--socket={d}/run/munge.sock", *options])
        self._wait_for(lambda: (d / "run/munge.sock").exists(), "munged did not open its socket")

    def _start_database(self) -> None:
        data, where = f"--datadir={self.folder}/db", f"--socket={self.folder}/run/m.sock"
        as_root = ["--user=root"] if self.owner.uid == 0 else []
        normal = "--auth-root-authentication-method=normal"
        self._must(["mariadb-install-db", "--no-defaults", data, normal, "--skip-test-db", *as_root])
        self._spawn(
            [
                *("mariadbd", "--no-defaults", data, where, "--skip-networking", f"--pid-file={self.folder}/run/m.pid"),
                *("--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"),
                *("--innodb-flush-log-at-trx-commit=2", *as_root),
            ]
        )
        client = ["mariadb", "--no-defaults", where, "-u", "root", "-e"]
        self._wait_for(lambda: self._ask([*client, "select 1"]).returncode == 0, "mariadbd did not answer")
        self._must([*client, _SQL])

    @property
    def _slurmd_is_root(self) -> bool:
        return self.options.limit_memory and self.owner.made and has_memory_groups()

    def _spawn(
        self, command: Sequence[str], *, name: str = "", env: Mapping[str, str] | None = None, as_root: bool = False
    ) -> None:
        """Start a daemon in the foreground; it dies with this process, and its output goes to log/<program>.out."""
        ids = [f"--reuid={self.owner.uid}", f"--regid={self.owner.gid}", "--clear-groups"]
        own = [] if self.owner.uid == os.geteuid() or as_root else ids
        with (self.folder / "log" / f"{command[0]}.out").open("ab") as output:
            self._daemons[name or command[0]] = subprocess.Popen(
                ["setpriv", *own, "--pdeathsig", "KILL", *command],
                cwd=self.folder / "run",
                env={**self.environment, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _ask(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return self.run_as_user(command, timeout_s=20)

    def _must(self, command: Sequence[str]) -> None:
        """Ask again for a while: a daemon that has opened its port is not always ready to answer."""
        deadline = time.monotonic() + 30
        while (done := self.run_as_user(command, timeout_s=60)).returncode != 0:
            if time.monotonic() > deadline:
                raise ClusterError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
            time.sleep(0.2)

    def _wait_for(self, is_ready: Callable[[], bool], problem: str, *, limit_s: float = 120.0) -> None:
        deadline = time.monotonic() + limit_s
        while not is_ready():
            dead = [daemon for daemon in self._daemons.values() if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                raise ClusterError(f"{problem}; ended: {[d.args for d in dead]}; logs say:\n{self._log_tails()}")
            time.sleep(0.05)

    def _log_tails(self) -> str:
        tails = []
        for path in sorted((self.folder / "log").iterdir()):
            tails += [f"{path.name}: {line}" for line in path.read_text(errors="replace").splitlines()[-5:]]
        return "\n".join(tails)


@cache
def _port_locks() -> int:
    """One file for all processes of this user; byte N is locked by the one that has chosen port N, until it ends."""
    path = Path(tempfile.gettempdir()) / f"asx-slurm-ports-{os.getuid()}.lock"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _free_ports(count: int) -> list[int]:
    """Ports below those that the kernel gives to clients and chosen by no other cluster: their daemons start later."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(10000, 32000), 22000):
        with socket.socket() as each, suppress(OSError):
            fcntl.lockf(_port_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            each.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise ClusterError(f"{len(found)} free ports between 10000 and 32000, {count} are needed")


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _kill_all(processes: Callable[[], list[int]]) -> None:
    """Kill until none is left; a killed step may have left a child that was not seen before."""
    deadline = time.monotonic() + 10
    while (alive := processes()) and time.monotonic() < deadline:
        for pid in alive:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    with SlurmCluster() as _cluster:
        _done = subprocess.run(
            _cluster.user_command(sys.argv[1:]), cwd=_cluster.workdir, env=_cluster.environment, check=False
        )
    sys.exit(_done.returncode)

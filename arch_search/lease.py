"""The driver's lease: a campaign has one driver, on whatever host, also where file locks hold on one host only.

`driver/lease-<number>.json` says who drives. The highest number counts, and only its holder rewrites the file: to renew
it, and to give it up. Who finds it given up, dead or expired makes the next number with link(), which one of many can
do. Numbers never fall, so that a driver that comes back from a suspension sees that it was replaced.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from arch_search.errors import LeaseHeldError, LeaseLostError
from arch_search.paths import CampaignPaths
from arch_search.serving.process import is_running, start_ticks
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json, remove_stale_temporaries, write_atomic
from cognition_db.experience.journal import shut_out_writer
from cognition_db.records import canonical_json, from_json, to_json

_FILE = re.compile(r"lease-(\d{8})\.json")
_RENEWALS = 4  # within lease_s
_LOOKS = 20  # within lease_s, at a lease of another machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a driver runs. `id` tells apart boots and process namespaces: pids mean something within one of them."""

    id: str
    host: str

    @staticmethod
    def here() -> Machine:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return Machine(id=f"{boot_id}/{os.readlink('/proc/self/ns/pid')}", host=socket.gethostname())

    @staticmethod
    def uptime_s() -> float:
        """Seconds since the boot, suspensions included; no clock that somebody sets."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a campaign, or held it. Times are from the holder's clocks, to be compared on its machine only."""

    token: str
    machine: Machine
    pid: int
    start_ticks: int
    lease_s: float
    renewed_unix: float
    renewed_uptime_s: float
    released: bool

    def words(self) -> str:
        age_s = max(0.0, time.time() - self.renewed_unix)
        return f"pid {self.pid} on {self.machine.host}, lease renewed {age_s:.0f} s ago"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    number: int
    holder: Holder


class Lease:
    """A lease that is held. A thread renews it until it is released or somebody else has taken the campaign over."""

    def __init__(self, folder: Path, number: int, holder: Holder) -> None:
        self.holder = holder
        self._folder = folder
        self._number = number
        self._over = threading.Event()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def require(self) -> None:
        """Return while this driver may write and submit; costs one listing of a folder of a few files.

        Raises:
            LeaseLostError: another driver has taken over.
            StoreError: the lease is overdue and can't be renewed, so that another driver may take over any moment.
        """
        if not self.is_held():
            raise LeaseLostError(self.words_of_loss())
        if Machine.uptime_s() - self.holder.renewed_uptime_s > self.holder.lease_s / 2:
            self._renew()
            self.require()

    def is_held(self) -> bool:
        return not self._over.is_set() and _newest_number(self._folder) == self._number

    def is_lost(self) -> bool:
        """Whether somebody else has it; false for one that was given up."""
        return not self._over.is_set() and not self.is_held()

    def words_of_loss(self) -> str:
        return (
            f"{self._folder.parent}: another driver has taken this campaign over ({_words(self._folder)}) while "
            "this one was silent; this one ends and leaves everything to it"
        )

    def release(self) -> None:
        """Give the campaign up; the next driver then need not wait."""
        with self._guard:
            if self.is_held():
                self._over.set()
                # where it can't be written, the next driver sees that this process has ended, or waits
                with suppress(StoreError):
                    self._write(replace(self.holder, released=True))
        self._over.set()

    def _keep(self) -> None:
        while not self._over.wait(self.holder.lease_s / _RENEWALS):
            # `require` tells the driver when this fails for too long
            with suppress(StoreError, OSError):
                self._renew()

    def _renew(self) -> None:
        with self._guard:
            if self.is_held():
                renewed = replace(self.holder, renewed_unix=time.time(), renewed_uptime_s=Machine.uptime_s())
                self._write(renewed)
                self.holder = renewed

    def _write(self, holder: Holder) -> None:
        write_atomic(_file(self._folder, self._number), _bytes(holder))


@contextmanager
def driver_lease(
    paths: CampaignPaths,
    *,
    lease_s: float,
    say: Callable[[str], None] = print,
    waits: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    machine: Machine | None = None,
) -> Iterator[Lease]:
    """Hold the campaign for this driver.

    A holder on this machine is judged at once: dead, silent for its lease_s, or alive. One on another machine is
    watched until it renews or has been silent for its lease_s by the clock of this machine.

    Args:
        lease_s: how long this driver may be silent before another may take over.
        say: told once when there is something to wait for.
        waits: wait for a living driver to end instead of raising LeaseHeldError.
        sleep: what waiting is done with; what it raises ends the attempt.

    Raises:
        LeaseHeldError: another driver runs the campaign.
    """
    applicant = _Applicant(paths, machine=machine or Machine.here(), lease_s=lease_s, say=say, sleep=sleep)
    lease = applicant.acquire(waits=waits)
    try:
        yield lease
    finally:
        lease.release()


def current_holder(paths: CampaignPaths) -> Holder | None:
    """Who drives the campaign as far as the files say; None where nobody does."""
    found = _newest(paths.driver)
    return None if found is None or found.holder.released else found.holder


def is_dead(holder: Holder, machine: Machine) -> bool | None:
    """Whether the driver has ended or is silent for its lease_s; None where only watching it can tell."""
    if holder.machine.id != machine.id:
        return None
    silent_s = Machine.uptime_s() - holder.renewed_uptime_s
    return silent_s > holder.lease_s or not is_running(holder.pid, holder.start_ticks)


class _Applicant:
    """A driver that wants the lease."""

    def __init__(
        self,
        paths: CampaignPaths,
        *,
        machine: Machine,
        lease_s: float,
        say: Callable[[str], None],
        sleep: Callable[[float], None],
    ) -> None:
        self._paths = paths
        self._machine = machine
        self._lease_s = lease_s
        self._say = say
        self._sleep = sleep
        self._said: set[str] = set()

    def acquire(self, *, waits: bool) -> Lease:
        folder = self._paths.driver
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            found = _newest(folder)
            takes_over = found is not None and not found.holder.released
            if found is not None and takes_over and not self._may_replace(found):
                if not waits:
                    raise LeaseHeldError(
                        f"{self._paths.root}: another driver is running this campaign ({_words(folder)}); wait for it, "
                        f"or end it with: arch-search stop {self._paths.root}"
                    )
                self._say_once(f"waiting for the driver on {found.holder.machine.host} (pid {found.holder.pid}) to end")
                self._sleep(self._lease_s / _RENEWALS)
                continue
            mine = _new_holder(self._machine, self._lease_s)
            number = found.number + 1 if found else 1
            if _claim(folder, number, mine):
                break
        if takes_over:
            # its holder may live on, cut off from us: what it still acknowledges must reach nobody
            shut_out_writer(self._paths.journal)
            shut_out_writer(self._paths.calls)
        return Lease(folder, number, mine)

    def _may_replace(self, found: _Found) -> bool:
        dead = is_dead(found.holder, self._machine)
        if dead is not None:
            return dead
        host, lease_s = found.holder.machine.host, found.holder.lease_s
        self._say_once(
            f"a driver on {host} has not given this campaign up; it may be replaced when silent {lease_s:g} s"
        )
        return self._stays_silent(found)

    def _stays_silent(self, found: _Found) -> bool:
        """Watch until the lease changes, or for its lease_s; also true when it is given up meanwhile."""
        until = time.monotonic() + found.holder.lease_s
        while time.monotonic() < until:
            self._sleep(found.holder.lease_s / _LOOKS)
            now = _newest(self._paths.driver)
            if now != found:
                return now is None or now.holder.released
        return True

    def _say_once(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            self._say(words)


def _claim(folder: Path, number: int, holder: Holder) -> bool:
    """Make the lease of this number; false when somebody else has it, or a higher one."""
    own = folder / f".claim-{holder.token}.json"
    write_atomic(own, _bytes(holder))
    try:
        # the answer of link() may get lost on a network file system; the count of names can't
        with suppress(FileExistsError):
            os.link(own, _file(folder, number))
        won = own.stat().st_nlink == 2
    finally:
        own.unlink()
    if won and _newest_number(folder) != number:
        # found long ago: the number had been used and removed since
        _file(folder, number).unlink()
        return False
    if won:
        for old in folder.glob("lease-*.json"):
            if _number(old.name) < number:
                old.unlink(missing_ok=True)
        remove_stale_temporaries(folder)
    return won


def _new_holder(machine: Machine, lease_s: float) -> Holder:
    return Holder(
        token=secrets.token_hex(8),
        machine=machine,
        pid=os.getpid(),
        start_ticks=start_ticks(os.getpid()) or 0,
        lease_s=lease_s,
        renewed_unix=time.time(),
        renewed_uptime_s=Machine.uptime_s(),
        released=False,
    )


def _newest(folder: Path) -> _Found | None:
    while number := _newest_number(folder):
        with suppress(StoreError):
            return _Found(number=number, holder=from_json(Holder, read_json(_file(folder, number))))
        if number == _newest_number(folder):
            read_json(_file(folder, number))  # not removed for a newer one: it can't be read
    return None


def _newest_number(folder: Path) -> int:
    """Highest number there is, 0 for none. The folder is listed: a client of NFS may keep old answers about names."""
    try:
        return max((_number(name) for name in os.listdir(folder)), default=0)
    except FileNotFoundError:
        return 0


def _number(name: str) -> int:
    match = _FILE.fullmatch(name)
    return int(match[1]) if match else 0


def _file(folder: Path, number: int) -> Path:
    return folder / f"lease-{number:08d}.json"


def _bytes(holder: Holder) -> bytes:
    return canonical_json(to_json(holder)).encode()


def _words(folder: Path) -> str:
    found = _newest(folder)
    return "its files are gone" if found is None else found.holder.words()

"""How a driver is asked to end: a signal, `arch-search stop` on any host, another driver, the time of a tick."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, TypeVar

from arch_search.lease import Lease
from arch_search.paths import CampaignPaths
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.records import canonical_json

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
CTRL_C = 128 + signal.SIGINT
_LOOK_EVERY_S = 1.0
_Result = TypeVar("_Result")
_PATIENCE_S = 5.0  # for the main thread to come to a poll; it may be inside a merge or a call of the model


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequest:
    """Why a driver is to end. `cancel`: what runs for it is cancelled as well; `code`: its exit code.

    `lasting`: the campaign is to stand still until `run` or `submit` is called by hand.
    """

    reason: str
    cancel: bool = False
    lasting: bool = False
    code: int = 0


class DriverStopped(Exception):
    """Raised in the driver at a poll after it was asked to end."""

    def __init__(self, request: StopRequest) -> None:
        super().__init__(request.reason)
        self.request = request


def request_stop(paths: CampaignPaths, *, cancel: bool) -> None:
    """Ask whichever driver runs the campaign, on whatever host, to end; holds until `clear_stop`."""
    data = {"cancel": cancel, "host": socket.gethostname(), "unix": time.time()}
    write_atomic(_file(paths), canonical_json(data).encode())


def clear_stop(paths: CampaignPaths) -> None:
    _file(paths).unlink(missing_ok=True)


def stop_requested(paths: CampaignPaths) -> StopRequest | None:
    """The request on file. The folder is listed: a client of NFS may keep old answers about single names."""
    if not paths.driver.is_dir() or _file(paths).name not in os.listdir(paths.driver):
        return None
    data = read_json(_file(paths))
    reason = f"`arch-search stop` on {data['host']}"
    return StopRequest(reason=reason, cancel=bool(data["cancel"]), lasting=True)


class StopWatch:
    """Notices that this driver is to end, and sees to it that it does. Signals do so while this context is entered.

    The driver calls `require_going` at each poll. Where it does not come to one, the ending is done by a thread: all
    state is files, so that costs no more than a kill.
    """

    def __init__(self, paths: CampaignPaths, *, limit_s: float | None = None) -> None:
        self._paths = paths
        self._until = None if limit_s is None else time.monotonic() + limit_s
        self._signals: list[int] = []
        self._request: StopRequest | None = None
        self._looked_at = 0.0
        self._end: Callable[[StopRequest], None] | None = None
        self._lease: Lease | None = None
        self._ending = threading.RLock()
        self._left = threading.Event()
        self._old: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopWatch:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                self._old[number] = signal.signal(number, self._noted)
        threading.Thread(target=self._watch, name="stop", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def on_end(self, end: Callable[[StopRequest], None], *, lease: Lease) -> None:
        """`end` gives up what the driver holds, if it still holds the lease; called once, before the process leaves."""
        self._lease = lease
        self._end = end

    def request(self) -> StopRequest | None:
        """What asks this driver to end, if anything does."""
        if self._request is None:
            self._request = self._asked_by_signal() or self._asked_by_files() or self._asked_by_time()
        return self._request

    def require_going(self) -> None:
        """Return while nobody wants this driver to end, else raise DriverStopped."""
        request = self.request()
        if request is not None:
            raise DriverStopped(request)

    def sleep(self, seconds: float) -> None:
        """Sleep, but raise DriverStopped soon after somebody wants this driver to end."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.require_going()
            time.sleep(min(left, 0.5))

    def run(self, work: Callable[[], _Result]) -> _Result:
        """Do the work of the driver; the process ends in it when somebody wants that."""
        try:
            return work()
        except DriverStopped as stopped:
            self.leave(stopped.request)
        except Exception:
            # Ctrl-C reaches the programs that the driver waits for as well
            request = self.request()
            if request is None:
                raise
            self.leave(request)

    def leave(self, request: StopRequest) -> NoReturn:
        """Give up what is held and end the process, without waiting for threads that wait for the model."""
        with self._ending:
            try:
                if self._end is not None:
                    self._end(request)
            finally:
                with suppress(OSError, ValueError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(request.code)

    def _noted(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _watch(self) -> None:
        while not self._left.wait(_LOOK_EVERY_S / 2):
            if self._end is not None and (request := self.request()) is not None:
                self._wait_for_the_driver()
                if not self._left.is_set():
                    self.leave(request)

    def _wait_for_the_driver(self) -> None:
        """A second signal is impatient."""
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until and len(self._signals) < 2 and not self._left.is_set():
            time.sleep(0.1)

    def _asked_by_signal(self) -> StopRequest | None:
        if not self._signals:
            return None
        number = signal.Signals(self._signals[0])
        return StopRequest(reason=number.name, code=CTRL_C if number is signal.SIGINT else 0)

    def _asked_by_files(self) -> StopRequest | None:
        if time.monotonic() - self._looked_at < _LOOK_EVERY_S:
            return None
        self._looked_at = time.monotonic()
        if self._lease is not None and self._lease.is_lost():
            return StopRequest(reason=self._lease.words_of_loss(), code=1)
        return stop_requested(self._paths)

    def _asked_by_time(self) -> StopRequest | None:
        if self._until is None or time.monotonic() < self._until:
            return None
        return StopRequest(reason="the time of this tick is over")


def _file(paths: CampaignPaths) -> Path:
    return paths.driver / "stop.json"

"""When a server of the fleet is submitted, drained or given up. Pure functions of what is known of the servers.

A replica is a place in the fleet; its servers follow one another. Each failure doubles the time before the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from arch_search.serving.order import Ending

PROVEN_S = 600.0  # a server that has served so long starts a new count of failures
_FIRST_PAUSE_S = 30.0
_LONGEST_PAUSE_S = 600.0


class Phase(Enum):
    """How a server stands for its driver."""

    COMING = "coming"  # in the queue or loading
    READY = "ready"
    DRAINING = "draining"  # gets no more requests
    OVER = "over"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerView:
    """One server. Names of a replica sort in the order of their submission; times are seconds since 1970."""

    name: str
    replica: int
    phase: Phase
    started_unix: float | None = None  # of a server that has given a token
    ends_unix: float | None = None  # its time limit, likewise
    ending: Ending | None = None  # of one that is over


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is due. `waits` are reasons why a replica without server gets none now; `given_up` why it gets no more."""

    submit: tuple[int, ...]
    drain: tuple[str, ...]
    waits: tuple[str, ...]
    given_up: tuple[str, ...]


def next_step(
    servers: Sequence[ServerView], *, replicas: int, now_unix: float, replace_before_s: float, most_failures: int
) -> Step:
    """Which replicas get a server now, and which servers get no more requests.

    Args:
        replace_before_s: so long before the time limit of a server its successor is submitted.
        most_failures: after so many failures in a row a replica gets no more servers.
    """
    submit: list[int] = []
    waits: list[str] = []
    given_up: list[str] = []
    drain = [one.name for one in servers if one.phase is Phase.READY and one.replica >= replicas]
    for replica in range(replicas):
        mine = sorted((one for one in servers if one.replica == replica), key=lambda one: one.name)
        ready = [one for one in mine if one.phase is Phase.READY]
        drain += [one.name for one in ready[:-1]]
        is_coming = any(one.phase is Phase.COMING for one in mine)
        if is_coming or (ready and not _is_near(ready[-1], now_unix=now_unix, before_s=replace_before_s)):
            continue
        failures = failures_in_a_row(mine)
        wait_s = failures[0].unix + pause_s(len(failures)) - now_unix if failures else 0.0
        if len(failures) >= most_failures:
            given_up.append(f"{len(failures)} model servers in a row failed, the last one: {failures[0].reason}")
        elif wait_s > 0:
            waits.append(f"the next model server is submitted in {wait_s:.0f} s, after {failures[0].reason}")
        else:
            submit.append(replica)
    return Step(submit=tuple(submit), drain=tuple(drain), waits=tuple(waits), given_up=tuple(given_up))


def failures_in_a_row(servers: Sequence[ServerView]) -> list[Ending]:
    """The endings of one replica's failures since something went well, the newest first."""
    found: list[Ending] = []
    for one in sorted(servers, key=lambda one: one.name, reverse=True):
        if one.ending is None:
            continue
        if not one.ending.failed:
            break
        found.append(one.ending)
        if one.started_unix is not None and one.ending.unix - one.started_unix >= PROVEN_S:
            break
    return found


def pause_s(failures: int) -> float:
    """How long a replica waits after so many failures in a row: not at all after the first."""
    return 0.0 if failures <= 1 else min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (failures - 2))


def _is_near(server: ServerView, *, now_unix: float, before_s: float) -> bool:
    return server.ends_unix is not None and server.ends_unix - now_unix < before_s

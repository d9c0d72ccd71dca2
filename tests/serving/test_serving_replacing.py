"""When servers are submitted, drained and given up."""

from __future__ import annotations

from arch_search.serving.order import Ending
from arch_search.serving.replacing import PROVEN_S, Phase, ServerView, Step, failures_in_a_row, next_step, pause_s

NOW = 100_000.0
HOUR = 3600.0


def ready(name: str, *, ends_in_s: float = HOUR) -> ServerView:
    return ServerView(
        name=name, replica=int(name[1]), phase=Phase.READY, started_unix=NOW - HOUR, ends_unix=NOW + ends_in_s
    )


def coming(name: str) -> ServerView:
    return ServerView(name=name, replica=int(name[1]), phase=Phase.COMING)


def over(name: str, *, failed: bool, ago_s: float = 0.0, served_s: float | None = None) -> ServerView:
    ending = Ending(reason=f"{name} died", failed=failed, unix=NOW - ago_s)
    started = None if served_s is None else NOW - ago_s - served_s
    return ServerView(name=name, replica=int(name[1]), phase=Phase.OVER, started_unix=started, ending=ending)


def step(*servers: ServerView, replicas: int = 1) -> Step:
    return next_step(servers, replicas=replicas, now_unix=NOW, replace_before_s=1200, most_failures=3)


def test_each_replica_without_a_server_gets_one() -> None:
    assert step(replicas=2).submit == (0, 1)
    assert step(ready("r0-0001"), coming("r1-0001"), replicas=3).submit == (2,)


def test_a_server_near_its_limit_gets_one_successor_and_goes_on_until_that_is_ready() -> None:
    near = ready("r0-0001", ends_in_s=1199)
    assert step(ready("r0-0001", ends_in_s=1201)) == Step(submit=(), drain=(), waits=(), given_up=())
    assert step(near) == Step(submit=(0,), drain=(), waits=(), given_up=())
    assert step(near, coming("r0-0002")) == Step(submit=(), drain=(), waits=(), given_up=())
    assert step(near, ready("r0-0002")).drain == ("r0-0001",)


def test_the_first_failure_is_answered_at_once_and_each_further_one_doubles_the_wait() -> None:
    assert step(over("r0-0001", failed=True)).submit == (0,)
    two = (over("r0-0001", failed=True, ago_s=50), over("r0-0002", failed=True, ago_s=29))
    assert step(*two).submit == ()
    assert step(*two).waits == ("the next model server is submitted in 1 s, after r0-0002 died",)
    assert step(two[0], over("r0-0002", failed=True, ago_s=31)).submit == (0,)
    assert [pause_s(count) for count in (1, 2, 3, 4, 9)] == [0, 30, 60, 120, 600]


def test_after_too_many_failures_in_a_row_a_replica_is_given_up_with_the_last_reason() -> None:
    failed = [over(f"r0-000{number}", failed=True, ago_s=9000) for number in (1, 2, 3)]
    given_up = step(*failed)
    assert given_up.submit == ()
    assert given_up.given_up == ("3 model servers in a row failed, the last one: r0-0003 died",)


def test_failures_of_another_replica_or_from_before_a_success_do_not_count() -> None:
    before = [over(f"r0-000{number}", failed=True, ago_s=9000) for number in (1, 2, 3)]
    assert step(*before, over("r0-0004", failed=False)).submit == (0,)
    assert step(*[over(f"r1-000{number}", failed=True, ago_s=9000) for number in (1, 2, 3)]).submit == (0,)


def test_a_server_that_served_for_long_starts_a_new_count_when_it_fails() -> None:
    early = [over(f"r0-000{number}", failed=True, ago_s=9000) for number in (1, 2)]
    proven = over("r0-0003", failed=True, served_s=PROVEN_S)
    assert len(failures_in_a_row([*early, proven])) == 1
    assert len(failures_in_a_row([*early, over("r0-0003", failed=True, served_s=PROVEN_S - 1)])) == 3


def test_servers_beyond_the_number_of_replicas_are_drained() -> None:
    assert step(ready("r0-0001"), ready("r1-0001")).drain == ("r1-0001",)

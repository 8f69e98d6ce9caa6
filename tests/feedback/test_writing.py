"""Writers of one process queue before a file: in the order of asking, what is urgent first, nobody for ever. Brief ones
that wait share one commit, and are as much all or nothing, and as lasting when they end, as if each had its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from llmops.feedback.writing import _queue, writing
from tests.patience import HANG_S, wait_until


def waiting(engine: Engine, name: str, order: list[str], *, urgent: bool = False) -> Thread:
    def work() -> None:
        with writing(engine, urgent=urgent):
            order.append(name)

    thread = Thread(target=work)
    with asks_before_the_next(engine):
        thread.start()
    return thread


@contextmanager
def asks_before_the_next(engine: Engine) -> Iterator[None]:
    """What is begun here waits in line when this ends."""
    queue = _queue(engine)
    before = len(queue._urgent) + len(queue._waiting)
    yield
    wait_until(lambda: len(queue._urgent) + len(queue._waiting) > before)


def test_who_asks_first_is_first_and_what_is_urgent_before_them(sqlite: Engine) -> None:
    order: list[str] = []
    with writing(sqlite):
        threads = [waiting(sqlite, name, order, urgent=name.startswith("rating")) for name in
                   ("task 1", "task 2", "rating 1", "task 3", "rating 2")]  # fmt: skip
        assert order == []
    for thread in threads:
        thread.join(HANG_S)
    assert order == ["rating 1", "rating 2", "task 1", "task 2", "task 3"]


def test_a_failure_leaves_nothing_and_lets_the_next_one_in(sqlite: Engine) -> None:
    def fail() -> None:
        with writing(sqlite) as connection:
            connection.execute(text("INSERT INTO memberships VALUES ('c', 'ann', 0)"))
            raise OSError("stop")

    with pytest.raises(OSError, match="stop"):
        fail()
    with writing(sqlite) as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM memberships")).scalar() == 0


# Those that are brief.

ADD = text("INSERT INTO memberships VALUES ('c', :name, 0)")


def add(engine: Engine, name: str, *, brief: bool = True, fails: bool = False) -> bool:
    """Add somebody; whether others see it as soon as that has ended."""
    with writing(engine, brief=brief) as connection:
        connection.execute(ADD, {"name": name})
        if fails:
            raise OSError(name)
    return name in added(engine)


def added(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.execute(text("SELECT rater FROM memberships")).scalars())


@contextmanager
def commits(engine: Engine, *, failing: bool = False) -> Iterator[list[int]]:
    """How many members there were at each; `failing`: the disk takes nothing."""
    seen: list[int] = []

    def before(connection: Any) -> None:
        seen.append(connection.execute(text("SELECT count(*) FROM memberships")).scalar_one())
        if failing:
            raise OSError("the disk is full")

    event.listen(engine, "commit", before)
    yield seen
    event.remove(engine, "commit", before)


def all_waiting(engine: Engine, pool: ThreadPoolExecutor, *each: dict[str, Any]) -> list[Future[bool]]:
    """All ask while somebody writes who is done when they all wait."""
    with writing(engine):
        begun = []
        for number, how in enumerate(each):
            with asks_before_the_next(engine):
                begun.append(pool.submit(add, engine, f"r{number}", **how))
    return begun


def test_those_who_wait_are_stored_by_one_commit_and_end_when_it_is_there(sqlite: Engine) -> None:
    with ThreadPoolExecutor(5) as pool, commits(sqlite) as seen:
        done = all_waiting(sqlite, pool, {}, {}, {}, {}, {})
        assert [one.result(HANG_S) for one in done] == [True] * 5
    assert seen == [0, 5]


def test_whoever_takes_long_shares_with_nobody(sqlite: Engine) -> None:
    with ThreadPoolExecutor(5) as pool, commits(sqlite) as seen:
        done = all_waiting(sqlite, pool, {}, {}, {"brief": False}, {}, {})
        assert [one.result(HANG_S) for one in done] == [True] * 5
    assert seen == [0, 2, 3, 5]


def test_so_many_share_and_no_more(sqlite: Engine) -> None:
    with ThreadPoolExecutor(20) as pool, commits(sqlite) as seen:
        done = all_waiting(sqlite, pool, *[{}] * 20)
        assert all(one.result(HANG_S) for one in done)
    assert seen == [0, 8, 16, 20]


def test_one_that_fails_leaves_nothing_and_takes_nothing_from_the_others(sqlite: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        first, failed, last = all_waiting(sqlite, pool, {}, {"fails": True}, {})
        assert first.result(HANG_S)
        assert last.result(HANG_S)
        with pytest.raises(OSError, match="r1"):
            failed.result(HANG_S)
    assert added(sqlite) == {"r0", "r2"}


def test_where_the_commit_fails_all_are_told_and_who_comes_later_is_stored(sqlite: Engine) -> None:
    with ThreadPoolExecutor(3) as pool, commits(sqlite, failing=True):
        done = [pool.submit(add, sqlite, f"r{number}") for number in range(3)]
        for one in done:
            with pytest.raises(OSError, match="the disk is full"):
                one.result(HANG_S)
    assert added(sqlite) == set()
    assert add(sqlite, "later")


def test_where_sqlite_takes_all_back_all_are_told(sqlite: Engine) -> None:
    def lost(name: str) -> None:
        with writing(sqlite, brief=True) as connection:
            connection.execute(ADD, {"name": name})
            connection.exec_driver_sql("ROLLBACK")  # as SQLite does by itself when the disk is full
            raise OSError("the disk is full")

    with ThreadPoolExecutor(3) as pool:
        with writing(sqlite):
            done: list[Future[Any]] = []
            for ask in (lambda: add(sqlite, "r0"), lambda: lost("r1"), lambda: add(sqlite, "r2")):
                with asks_before_the_next(sqlite):
                    done.append(pool.submit(ask))
        for one in done[:2]:
            with pytest.raises(OSError, match="the disk is full"):
                one.result(HANG_S)
        assert done[2].result(HANG_S), "who follows begins anew"
    assert added(sqlite) == {"r2"}


def test_many_at_once_are_each_all_or_nothing(sqlite: Engine) -> None:
    def work(number: int) -> list[str]:
        drawn, kept = random.Random(number), []
        for turn in range(15):
            name, fails = f"r{number}-{turn}", drawn.random() < 0.3
            try:
                assert add(sqlite, name, brief=drawn.random() < 0.8, fails=fails)
                kept.append(name)
            except OSError:
                assert fails
        return kept

    with ThreadPoolExecutor(12) as pool, commits(sqlite) as seen:
        kept = {name for names in pool.map(work, range(12)) for name in names}
    assert added(sqlite) == kept
    assert len(seen) < 12 * 15

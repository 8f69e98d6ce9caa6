"""Writers of one process queue before a file: in the order of asking, what is urgent first, nobody for ever."""

from __future__ import annotations

from threading import Thread

import pytest
from sqlalchemy import Engine, text

from llmops.feedback.writing import _queue, writing
from tests.patience import HANG_S, wait_until


def waiting(engine: Engine, name: str, order: list[str], *, urgent: bool = False) -> Thread:
    def work() -> None:
        with writing(engine, urgent=urgent):
            order.append(name)

    thread = Thread(target=work)
    queue = _queue(engine)
    before = len(queue._urgent) + len(queue._waiting)
    thread.start()
    wait_until(lambda: len(queue._urgent) + len(queue._waiting) > before)  # it asks before the next one does
    return thread


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

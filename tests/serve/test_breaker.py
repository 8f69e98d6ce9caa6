"""A replica that fails in a row is left alone for a while, and one request at a time finds out how it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.breaker import FAILURES, FIRST_WAIT_S, LONGEST_WAIT_S, Breaker


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.begin()
        breaker.failed(at)
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker()
    for _ in range(3):
        for _ in range(FAILURES - 1):
            breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.state(0.0) == "closed"
    assert opened().state(0.0) == "open"
    assert not opened().may(0.0)


def test_one_request_tries_it_and_the_others_wait_for_what_becomes_of_it() -> None:
    breaker = opened()
    assert breaker.opens_in(0.25) == FIRST_WAIT_S - 0.25
    assert breaker.state(FIRST_WAIT_S) == "half-open"
    assert breaker.may(FIRST_WAIT_S)
    breaker.begin()
    assert not breaker.may(FIRST_WAIT_S)
    breaker.succeeded()
    assert breaker.may(FIRST_WAIT_S)
    assert breaker.state(FIRST_WAIT_S) == "closed"


def test_a_client_that_leaves_the_try_decides_nothing() -> None:
    breaker = opened()
    breaker.begin()
    breaker.undecided()
    assert breaker.may(FIRST_WAIT_S)
    assert breaker.state(FIRST_WAIT_S) == "half-open"


def test_each_failed_try_doubles_the_wait_up_to_the_longest() -> None:
    breaker, now, waits = opened(), 0.0, []
    for _ in range(8):
        wait = breaker.opens_in(now)
        waits.append(wait)
        now += wait
        assert breaker.may(now)
        breaker.begin()
        breaker.failed(now)
    assert waits == [min(FIRST_WAIT_S * 2**n, LONGEST_WAIT_S) for n in range(8)]


def test_late_failures_of_requests_that_began_before_do_not_lengthen_the_wait() -> None:
    breaker = opened()
    for _ in range(20):
        breaker.failed(0.5)
    assert breaker.may(FIRST_WAIT_S)


@given(st.lists(st.sampled_from(["good", "bad", "left", "time"]), max_size=60))
def test_whatever_happens_it_is_tried_again_sooner_or_later(events: list[str]) -> None:
    breaker, now = Breaker(), 0.0
    for event in events:
        if event == "time":
            now += 0.5
        elif breaker.may(now):
            breaker.begin()
            {"good": breaker.succeeded, "bad": lambda: breaker.failed(now), "left": breaker.undecided}[event]()  # noqa: B023
    assert breaker.may(now + LONGEST_WAIT_S)

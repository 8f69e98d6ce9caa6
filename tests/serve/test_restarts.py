"""A server that ends is started again after longer and longer waits, and given up when it ends too often."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.restarts import Restarts
from llmops.serve.settings import Restart

QUICK = Restart(first_wait_s=1, longest_wait_s=8, attempts=6, window_s=100)


def test_waits_double_up_to_the_longest_and_then_it_is_given_up() -> None:
    restarts = Restarts(QUICK)
    assert [restarts.after_end(float(second)) for second in range(6)] == [1, 2, 4, 8, 8, None]
    assert restarts.ends == 6


def test_ends_long_ago_do_not_count() -> None:
    restarts = Restarts(QUICK)
    assert all(restarts.after_end(30.0 * number) is not None for number in range(1000))


def test_who_served_long_waits_little_again() -> None:
    restarts = Restarts(QUICK)
    assert [restarts.after_end(float(second)) for second in range(3)] == [1, 2, 4]
    assert restarts.after_end(200.0, ran_s=150.0) == 1


@given(
    st.lists(st.floats(0, 1e4), min_size=1, max_size=60),
    st.integers(1, 8),
    st.floats(1, 1e3),
)
def test_it_is_given_up_at_just_the_end_that_is_the_nth_within_the_window(
    gaps: list[float], attempts: int, window: float
) -> None:
    restarts = Restarts(Restart(first_wait_s=1, longest_wait_s=4, attempts=attempts, window_s=window))
    now, ends = 0.0, []
    for gap in gaps:
        now += gap
        ends.append(now)
        within = sum(end > now - window for end in ends)
        wait = restarts.after_end(now)
        assert (wait is None) == (within >= attempts)
        assert wait is None or 1 <= wait <= 4

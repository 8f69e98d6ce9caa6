"""No window of 60 seconds ever holds more than a key may take, and what is said about waiting is exact."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.serve.limits import SLOT_S, WINDOW_S, Allowance, Rate, Spending

STEPS = st.lists(st.tuples(st.one_of(st.floats(0, 0.6), st.floats(0, 90)), st.integers(0, 12)), min_size=1, max_size=80)


@given(most=st.integers(1, 20), steps=STEPS, began=st.floats(0, 1e6))
def test_a_rate_agrees_with_a_list_of_everything_taken(most: int, steps: list[tuple[float, int]], began: float) -> None:
    rate, now = Rate(most), began
    taken: list[tuple[float, int]] = []
    for step, amount in steps:
        now += step
        wait = rate.wait(amount, now)
        if amount > most:
            assert wait is None
            continue
        in_window = sum(one for at, one in taken if now - at <= WINDOW_S)
        a_slot_longer = sum(one for at, one in taken if now - at <= WINDOW_S + SLOT_S)
        if wait == 0.0:
            assert in_window + amount <= most, "the promise"
            rate.take(amount, now)
            taken.append((now, amount))
        else:
            assert a_slot_longer + amount > most, "it is stricter than promised by a slot at most"
    for at, _ in taken:
        assert sum(one for other, one in taken if at <= other <= at + WINDOW_S) <= most


@given(most=st.integers(1, 20), steps=STEPS, asked=st.integers(1, 20))
def test_after_the_wait_it_fits_and_not_a_moment_before(most: int, steps: list[tuple[float, int]], asked: int) -> None:
    rate, now = Rate(most), 1000.0
    for step, amount in steps:
        now += step
        if rate.wait(amount, now) == 0.0:
            rate.take(amount, now)
    wait = rate.wait(min(asked, most), now)
    assert wait is not None
    assert wait <= WINDOW_S + SLOT_S
    if wait:
        assert rate.wait(min(asked, most), now + wait - 1e-6) != 0.0
        assert rate.wait(min(asked, most), now + wait + 1e-6) == 0.0


def test_a_clock_that_goes_back_frees_nothing_and_holds_up_nobody_for_long() -> None:
    rate = Rate(2)
    rate.take(1, 1000.0)
    rate.take(1, 10.0)
    assert rate.wait(1, 10.0) == pytest.approx(WINDOW_S + SLOT_S)
    assert rate.wait(1, 1000.0 + WINDOW_S + SLOT_S) == 0.0


def test_memory_does_not_grow_with_what_is_taken() -> None:
    rate = Rate(10**9)
    for number in range(30_000):
        rate.take(1, number * 0.01)
    assert len(rate._slots) <= WINDOW_S / SLOT_S + 2


@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.integers(0, 50), st.integers(0, 80), st.integers(0, 5)), min_size=1, max_size=50
    )
)
def test_what_a_settled_minute_holds_is_what_was_used(steps: list[tuple[float, int, int, int]]) -> None:
    """A list of every reservation and every correction, summed over the window, is what counts."""
    allowance, now = Allowance(None, 10**6), 0.0
    assert allowance.tokens is not None
    slow: list[tuple[float, int]] = []  # when, tokens
    open_ones: list[tuple[int, int, int, int]] = []  # reserved, used, slot, index in `slow`
    for step, reserved, used, settled in steps:
        now += step
        slot = allowance.reserve(reserved, now)
        slow.append((now, reserved))
        open_ones.append((reserved, used, slot, len(slow) - 1))
        for _ in range(min(settled, len(open_ones))):
            was_reserved, was_used, was_slot, index = open_ones.pop(0)
            allowance.settle(was_reserved, was_used, was_slot, now)
            if was_used > was_reserved:
                slow.append((now, was_used - was_reserved))
            else:
                slow[index] = (slow[index][0], was_used)
        # A slot leaves the window as a whole.
        counted = sum(tokens for at, tokens in slow if (at // SLOT_S + 1) * SLOT_S + WINDOW_S > now)
        assert allowance.tokens.held(now) == counted


def test_new_limits_do_not_forget_what_was_taken() -> None:
    allowance = Allowance(10, None)
    for _ in range(8):
        allowance.reserve(5, 0.0)
    allowance.follow(5, 100)
    assert allowance.requests is not None
    assert allowance.tokens is not None
    assert allowance.requests.wait(1, 1.0) == pytest.approx(SLOT_S + WINDOW_S - 1.0)
    assert allowance.tokens.wait(100, 1.0) == 0.0
    allowance.follow(None, None)
    assert allowance.requests is None


def at(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[misc, arg-type]


def test_a_budget_begins_anew_with_the_calendar_month_in_utc() -> None:
    spending = Spending()
    spending.begin(at(2026, 11, 3), {"k": 2.0})
    spending.add("k", 1.5, at(2026, 11, 30, 23, 59, 59))
    spending.add("k", 0.25, at(2026, 12, 1))
    assert spending.of("k", at(2026, 11, 30, 23)) == 3.5
    assert spending.of("k", at(2026, 12, 1)) == 0.25
    assert spending.of("other", at(2026, 12, 1)) == 0.0


def test_a_wall_clock_that_jumps_away_and_back_finds_its_month_again() -> None:
    spending = Spending()
    spending.add("k", 1.0, at(2026, 11, 3))
    spending.add("k", 9.0, at(2031, 1, 1))
    spending.add("k", 9.0, at(1999, 1, 1))
    assert spending.of("k", at(2026, 11, 3)) == 1.0


def test_what_the_ledger_knew_counts_in_addition_whenever_it_is_read() -> None:
    """The database may come back long after the start."""
    spending = Spending()
    spending.add("k", 1.0, at(2026, 11, 3))
    spending.begin(at(2026, 11, 4), {"k": 2.0})
    assert spending.of("k", at(2026, 11, 5)) == 3.0

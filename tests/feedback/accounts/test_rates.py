"""Attempts are counted in a sliding window, in bounded memory, and what fills that memory frees nobody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.feedback.rates import Attempts, network_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(0.1, 100), max_size=60))
def test_as_many_as_said_in_any_window(waits: list[float]) -> None:
    """Against a list of all times that were let through."""
    clock = Clock()
    attempts = Attempts(3, 60.0, clock=clock)
    through: list[float] = []
    for wait in waits:
        clock.now += wait
        recent = [at for at in through if at > clock.now - 60]
        left = attempts.wait("a")
        assert (left is None) == (len(recent) < 3)
        if left is None:
            through.append(clock.now)
        else:
            assert left == pytest.approx(recent[-3] + 60 - clock.now)


def test_keys_are_counted_apart() -> None:
    attempts = Attempts(1, 60.0, clock=Clock())
    assert attempts.wait("a") is None
    assert attempts.wait("b") is None
    assert attempts.wait("a") == 60.0


def test_what_was_right_is_not_counted() -> None:
    attempts = Attempts(1, 60.0, clock=Clock())
    for _ in range(3):
        assert attempts.wait("a") is None
        attempts.forgive("a")
    attempts.forgive("never tried")
    assert attempts.wait("a") is None
    assert attempts.wait("a") is not None


def test_memory_is_bounded_and_a_flood_of_keys_frees_none_that_is_counted() -> None:
    clock = Clock()
    attempts = Attempts(2, 60.0, keys=100, clock=clock)
    attempts.wait("victim")
    attempts.wait("victim")
    said = [attempts.wait(f"flood {number}") for number in range(10_000)]
    assert len(attempts) <= 101
    assert attempts.wait("victim") is not None
    assert said[:99] == [None] * 99
    assert sum(wait is None for wait in said[99:]) == 2, "those that are one too many share one count"
    clock.now = 61
    assert attempts.wait("victim") is None
    assert attempts.wait("new") is None


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_a_household_is_one(address: str, network: str) -> None:
    assert network_of(address) == network

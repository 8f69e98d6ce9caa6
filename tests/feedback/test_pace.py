"""The pace is that of the last week, told with its span; where there is too little, none is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.feedback.pace import WINDOW_S, pace_of

NOW = 1_800_000_000.0
HOUR = 3600.0


def test_what_is_left_is_there_when_the_pace_goes_on() -> None:
    found = pace_of([NOW - 10 * HOUR + place * HOUR / 10 for place in range(101)], left=50, now=NOW)
    assert found is not None
    assert found.per_hour == pytest.approx(10)
    assert found.end == pytest.approx(NOW + 5 * HOUR)


def test_the_pause_since_the_last_rating_is_part_of_the_span() -> None:
    arrived = [NOW - 20 * HOUR + place * HOUR / 10 for place in range(101)]
    found = pace_of(arrived, left=50, now=NOW)
    assert found is not None
    assert (found.since, found.until) == (arrived[0], NOW)
    assert found.end == pytest.approx(NOW + 10 * HOUR)


def test_what_came_before_the_last_week_says_nothing_of_now() -> None:
    old = [NOW - 3 * WINDOW_S] * 10_000
    assert pace_of(old, left=5, now=NOW) is None
    found = pace_of(old + [NOW - HOUR] * 70, left=10, now=NOW)
    assert found is not None
    assert (found.ratings, found.since) == (70, NOW - WINDOW_S)
    assert found.end == pytest.approx(NOW + WINDOW_S / 7)


@pytest.mark.parametrize(
    "arrived",
    [
        pytest.param([], id="no rating"),
        pytest.param([NOW - HOUR] * 20, id="nineteen after the first, which began the span: all at once"),
        pytest.param([NOW - 599 + place for place in range(100)], id="less than ten minutes"),
        pytest.param([NOW - HOUR + place for place in range(20)], id="twenty with the first"),
    ],
)
def test_too_little_tells_no_pace(arrived: list[float]) -> None:
    assert pace_of(arrived, left=100, now=NOW) is None


def test_a_finished_campaign_has_a_pace_and_no_end() -> None:
    found = pace_of([NOW - HOUR + place for place in range(100)], left=0, now=NOW)
    assert found is not None
    assert found.end is None


@given(
    arrived=st.lists(st.floats(0, 2 * WINDOW_S).map(lambda ago: NOW - ago), max_size=60),
    left=st.integers(1, 1000),
)
def test_the_end_is_as_far_ahead_as_those_left_take_at_the_pace(arrived: list[float], left: int) -> None:
    found = pace_of(arrived, left=left, now=NOW)
    if found is not None:
        counted = sorted(at for at in arrived if at > found.since)
        assert len(counted) == found.ratings
        assert found.end == pytest.approx(NOW + left / (len(counted) / (NOW - found.since)))

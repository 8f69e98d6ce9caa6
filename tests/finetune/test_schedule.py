"""The learning rate rises to its peak, falls by shape to its floor, and every update moves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.finetune.recipe import Schedule
from llmops.finetune.schedule import learning_rate_factor, warmup_updates

SHAPES = ("cosine", "linear", "constant", "wsd")


def course(schedule: Schedule, total: int) -> list[float]:
    return [learning_rate_factor(schedule, update, total) for update in range(1, total + 1)]


@given(
    total=st.integers(1, 300),
    warmup=st.floats(0, 0.9),
    shape=st.sampled_from(SHAPES),
    floor=st.floats(0, 0.9),
)
def test_it_rises_then_falls_and_stays_between_zero_and_the_peak(
    total: int, warmup: float, shape: str, floor: float
) -> None:
    schedule = Schedule(warmup=warmup, shape=shape, floor=floor)
    rates = course(schedule, total)
    peak = warmup_updates(schedule, total)
    assert rates[peak] == 1.0, "the first update after the warm-up is made at the peak"
    assert all(0 <= rate <= 1 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] > 0, "no update is wasted at rate zero"


def test_the_cosine_is_the_formula_of_sgdr() -> None:
    """Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5."""
    total, floor = 101, 0.1
    rates = course(Schedule(warmup=0, shape="cosine", floor=floor), total)
    for update in range(total):
        expected = floor + 0.5 * (1 - floor) * (1 + math.cos(math.pi * update / (total - 1)))
        assert rates[update] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", ["cosine", "linear", "wsd"])
def test_the_last_update_reaches_the_floor(shape: str) -> None:
    schedule = Schedule(warmup=0.1, shape=shape, floor=0.25)
    assert course(schedule, 50)[-1] == pytest.approx(0.25)


def test_wsd_stays_at_the_peak_until_the_last_fifth() -> None:
    rates = course(Schedule(warmup=0, shape="wsd"), 101)
    assert set(rates[:81]) == {1.0}
    assert rates[90] == pytest.approx(0.5)


def test_an_update_outside_the_run_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="outside"):
        learning_rate_factor(Schedule(), 11, 10)

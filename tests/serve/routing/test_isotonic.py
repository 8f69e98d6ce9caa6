"""A score becomes a probability by the rising steps that fit best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from llmops.serve.routing.isotonic import Steps, isotonic

POINTS = st.lists(
    st.tuples(st.integers(0, 20).map(lambda number: number / 20), st.floats(0, 1, width=32)), min_size=1, max_size=60
)


@given(points=POINTS, asked=st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=20))
def test_it_is_scikit_learns_between_the_points_and_beyond_them(
    points: list[tuple[float, float]], asked: list[float]
) -> None:
    scores, outcomes = zip(*points, strict=True)
    ours = isotonic(scores, outcomes)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, outcomes)
    np.testing.assert_allclose([ours(one) for one in asked], theirs.predict(asked), atol=1e-9)


@given(points=POINTS)
def test_it_never_falls_and_keeps_the_mean(points: list[tuple[float, float]]) -> None:
    """The mean of the fitted values is that of the outcomes: the sum over each level is kept."""
    scores, outcomes = zip(*points, strict=True)
    fitted = isotonic(scores, outcomes)
    assert list(fitted.values) == sorted(fitted.values)
    assert np.mean([fitted(one) for one in scores]) == pytest.approx(np.mean(outcomes), abs=1e-9)


def test_in_order_it_changes_nothing() -> None:
    assert isotonic([0.1, 0.2, 0.3], [0, 0.5, 1]) == Steps((0.1, 0.2, 0.3), (0, 0.5, 1))


def test_in_reverse_it_is_the_mean() -> None:
    fitted = isotonic([0.1, 0.2, 0.3], [1, 0.5, 0])
    assert [fitted(one) for one in (0, 0.15, 0.3, 1)] == [0.5] * 4


@pytest.mark.parametrize(("scores", "outcomes"), [([], []), ([0.1], [1, 0])])
def test_points_without_partners_are_refused(scores: list[float], outcomes: list[float]) -> None:
    with pytest.raises(ValueError, match="scores and"):
        isotonic(scores, outcomes)


@pytest.mark.parametrize(("scores", "values"), [((), ()), ((0.1,), (0, 1)), ((0.2, 0.1), (0, 1)), ((0.1, 0.2), (1, 0))])
def test_steps_that_fall_are_none(scores: tuple[float, ...], values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"scores|values"):
        Steps(scores, values)

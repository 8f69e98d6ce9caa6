"""Quality against calls: areas and shares are those of a loop over the prompts, of closed forms, and of RouteLLM."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import rankdata

from llmops.serve.routing.curve import Curve, Ranking, curve, oracle, random_curve

GRADES = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.booleans()), min_size=2, max_size=40)


def drawn(rows: list[tuple[int, bool, bool]]) -> tuple[np.ndarray, np.ndarray]:
    scores = np.asarray([row[0] / 7 for row in rows])
    gaps = np.asarray([float(row[2]) - float(row[1]) for row in rows])
    assume(gaps.sum() > 0)
    return scores, gaps


def by_loop(scores: np.ndarray, gaps: np.ndarray) -> list[tuple[float, float]]:
    """Points of the curve, a threshold at a time, as an evaluation of a router would measure them."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        large = [one >= threshold for one in scores]
        won = sum(gap for gap, goes in zip(gaps.tolist(), large, strict=True) if goes)
        points.append((sum(large) / len(large), won / gaps.sum()))
    return points


@given(GRADES)
def test_points_and_area_are_those_of_a_loop(rows: list[tuple[int, bool, bool]]) -> None:
    scores, gaps = drawn(rows)
    found, points = curve(Ranking.by(scores), gaps), by_loop(scores, gaps)
    np.testing.assert_allclose(np.column_stack([found.calls, found.recovered]), points, atol=1e-12)
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))
    assert found.area() == pytest.approx(area)


@given(GRADES)
def test_the_area_is_the_gap_weighted_mean_rank(rows: list[tuple[int, bool, bool]]) -> None:
    """Closed form: each prompt's gap counts by the share of calls after its place, ties at their middle."""
    scores, gaps = drawn(rows)
    places = (rankdata(-scores, method="average") - 0.5) / len(scores)
    assert curve(Ranking.by(scores), gaps).area() == pytest.approx(float((gaps * (1 - places)).sum() / gaps.sum()))


@given(GRADES, st.integers(0, 2**32 - 1))
def test_drawn_items_count_as_often_as_they_are_drawn(rows: list[tuple[int, bool, bool]], seed: int) -> None:
    scores, gaps = drawn(rows)
    weights = np.random.default_rng(seed).integers(0, 4, size=len(scores))
    repeated = np.repeat(np.arange(len(scores)), weights)
    assume(gaps[repeated].sum() > 0)
    both = np.stack([weights, np.ones_like(weights)]).astype(float)
    found, alone = curve(Ranking.by(scores), gaps, both), curve(Ranking.by(scores[repeated]), gaps[repeated])
    assert found.area()[0] == pytest.approx(float(alone.area()))
    assert found.calls_for(0.5)[0] == pytest.approx(float(alone.calls_for(0.5)))
    assert found.area()[1] == pytest.approx(float(curve(Ranking.by(scores), gaps).area()))


@given(GRADES)
def test_knowing_nothing_is_chance(rows: list[tuple[int, bool, bool]]) -> None:
    scores, gaps = drawn(rows)
    found = curve(Ranking.by(np.zeros_like(scores)), gaps)
    assert found.area() == pytest.approx(0.5)
    for level in (0.2, 0.5, 0.8):
        assert found.calls_for(level) == pytest.approx(level)


def test_chances_own_curve_is_the_diagonal() -> None:
    assert random_curve().area() == 0.5
    assert random_curve().calls_for(0.8) == pytest.approx(0.8)


@given(GRADES)
def test_no_ranking_is_better_than_the_oracle(rows: list[tuple[int, bool, bool]]) -> None:
    scores, gaps = drawn(rows)
    ours, most = curve(Ranking.by(scores), gaps), curve(oracle(gaps), gaps)
    assert ours.area() <= most.area() + 1e-12
    shares = np.linspace(0, 1, 50)
    assert (ours.recovered_at(shares) <= most.recovered_at(shares) + 1e-9).all()
    # Closed form, with n prompts of which w are won and v lost: up over w, flat, down over v.
    n, w, v = len(gaps), (gaps > 0).sum(), (gaps < 0).sum()
    up = w / (w - v)
    assert most.area() == pytest.approx(up * (1 - w / n / 2 - v / n / 2) + (v / n) / 2)


@given(GRADES)
def test_the_reverse_of_a_ranking_recovers_the_rest(rows: list[tuple[int, bool, bool]]) -> None:
    scores, gaps = drawn(rows)
    assert curve(Ranking.by(scores), gaps).area() + curve(Ranking.by(-scores), gaps).area() == pytest.approx(1.0)


def test_routellms_sum_over_ten_shares_is_near() -> None:
    """arXiv 2406.18665, eq. 5: the mean PGR at ten shares of calls."""
    draw = np.random.default_rng(0)
    gaps = (draw.random(2000) < 0.3).astype(float)
    scores = gaps + draw.normal(0, 1, 2000)
    found = curve(Ranking.by(scores), gaps)
    shares = np.arange(1, 11) / 10
    coarse = found.recovered_at(shares).mean()
    # A right sum of a curve that rises from 0 to 1 is too large by about half a step.
    assert found.area() == pytest.approx(coarse - 0.05, abs=0.01)


@pytest.mark.parametrize(
    ("level", "calls"),
    [(0.25, 0.125), (0.5, 0.25), (0.75, 0.5), (1.0, 0.75)],
)
def test_calls_for_a_level_lie_on_the_first_crossing(level: float, calls: float) -> None:
    """Between points straight, and the first time, though the curve comes back down."""
    found = Curve(np.array([0, 0.25, 0.5, 0.75, 1.0]), np.array([0, 0.5, 0.75, 1.0, 1.0]))
    assert found.calls_for(level) == pytest.approx(calls)
    over = Curve(np.array([0, 0.5, 1.0]), np.array([0, 1.2, 1.0]))
    assert over.calls_for(1.0) == pytest.approx(0.5 / 1.2)


def test_without_a_gap_nothing_can_be_recovered() -> None:
    found = curve(Ranking.by(np.array([0.1, 0.2])), np.array([1.0, -1.0]))
    assert np.isnan(found.area())
    assert np.isnan(found.calls_for(0.5))

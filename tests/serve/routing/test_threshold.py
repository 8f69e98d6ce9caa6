"""A threshold keeps the floor as surely as asked, with as few calls as that allows; or the ceiling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmops.errors import InputError
from llmops.serve.routing.router import Aim
from llmops.serve.routing.threshold import ALL, NONE, pick


def aim(kind: str, value: float, *, confidence: float = 0.5, small_cost: float = 0.0) -> Aim:
    return Aim.model_validate({"kind": kind, "value": value, "confidence": confidence, "small_cost": small_cost})


def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Held-out gaps that tell something, and grades."""
    draw = np.random.default_rng(seed)
    hard = draw.random(rows)
    small, large = (draw.random(rows) < 1 - 0.6 * hard).astype(float), (draw.random(rows) < 0.9).astype(float)
    return np.round(hard + draw.normal(0, 0.2, rows), 2) / 3, small, large


@given(st.integers(0, 10_000), st.floats(0.5, 1.0), st.integers(5, 60))
def test_the_floor_is_kept_and_the_next_threshold_would_not_keep_it(seed: int, floor: float, rows: int) -> None:
    """By a loop over all thresholds, from the one with the most calls on."""
    scores, small, large = drawn(rows, seed)
    assume(large.sum() > 0)
    found = pick(scores, small, large, range(rows), aim("quality", floor))
    expected = ALL
    for threshold in [*sorted(set(scores.tolist()))[1:], NONE]:
        routed = np.where(scores >= threshold, large, small)
        if routed.sum() < floor * large.sum() - 1e-9:
            break
        expected = threshold
    assert found == expected


def test_a_floor_to_be_shown_takes_more_calls() -> None:
    scores, small, large = drawn(500, 1)
    asked = [pick(scores, small, large, range(500), aim("quality", 0.9, confidence=c)) for c in (0.5, 0.8, 0.95, 0.99)]
    assert asked == sorted(asked, reverse=True)
    assert asked[0] > asked[-1]


def test_items_that_are_not_independent_show_less() -> None:
    scores, small, large = drawn(500, 1)
    wanted = aim("quality", 0.9, confidence=0.95)
    scores2, small2, large2 = (np.concatenate([one, one]) for one in (scores, small, large))
    honest = pick(scores2, small2, large2, [*range(500), *range(500)], wanted)
    assert honest == pick(scores, small, large, range(500), wanted)
    assert honest < pick(scores2, small2, large2, range(1000), wanted)


def test_the_floor_is_missed_as_seldom_as_asked() -> None:
    """On 200 samples of a known population, the threshold's true quality is below the floor in at most 5 %, and more
    of them for want of a finite sample's luck (three standard errors)."""
    scores, small, large = drawn(200_000, 99)
    floor, missed, trials = 0.93, 0, 200
    draw = np.random.default_rng(5)
    for _ in range(trials):
        rows = draw.integers(0, len(scores), 250)
        found = pick(scores[rows], small[rows], large[rows], range(250), aim("quality", floor, confidence=0.95))
        routed = np.where(scores >= found, large, small)
        missed += routed.mean() < floor * large.mean()
    assert missed / trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)


@given(st.integers(0, 10_000), st.floats(0.0, 1.0), st.floats(0.0, 0.9))
def test_the_ceiling_is_kept_with_as_many_calls_as_it_allows(seed: int, ceiling: float, small_cost: float) -> None:
    assume(ceiling >= small_cost)
    scores, small, large = drawn(50, seed)
    found = pick(scores, small, large, range(50), aim("cost", ceiling, small_cost=small_cost))

    def cost(threshold: float) -> float:
        calls = float((scores >= threshold).mean())
        return calls + (1 - calls) * small_cost

    assert cost(found) <= ceiling + 1e-9
    lower = [one for one in (ALL, *sorted(set(scores.tolist()))) if (scores >= one).mean() > (scores >= found).mean()]
    assert all(cost(one) > ceiling - 1e-9 for one in lower)


def test_the_ends() -> None:
    scores, small, large = drawn(100, 3)
    assert pick(scores, small, large, range(100), aim("cost", 1.0)) == ALL
    assert pick(scores, small, large, range(100), aim("cost", 0.0)) == NONE
    assert pick(scores, small, large, range(100), aim("quality", 0.0)) == NONE
    assert pick(scores, np.zeros(100), np.ones(100), range(100), aim("quality", 1.0)) == ALL


def test_a_ceiling_below_the_small_model_is_refused() -> None:
    scores, small, large = drawn(100, 3)
    with pytest.raises(InputError, match="20% of asking the large one"):
        pick(scores, small, large, range(100), aim("cost", 0.1, small_cost=0.2))

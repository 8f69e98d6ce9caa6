"""The gap between slices is the largest difference of two, and many equal slices alone are no gap."""

from __future__ import annotations

import numpy as np
import pytest

from llmops.eval.gaps import Gap, difference
from llmops.stats import Proportion, Resampled, resampled


def test_two_shares_are_newcombes_published_interval() -> None:
    # Newcombe 1998, Statistics in Medicine 17:873, table II, case (a), method 10: 56/70 less 48/80.
    low, high = difference(Proportion(48, 80), Proportion(56, 70), 0.95)
    assert [low, high] == pytest.approx([0.0524, 0.3339], abs=5e-5)


def test_two_means_are_nearly_the_two_sample_interval() -> None:
    rng = np.random.default_rng(1)
    samples = [rng.normal(mean, 1, 400) for mean in (0.0, 0.5)]

    def estimate(values: np.ndarray) -> Resampled:
        statistics = np.stack([values, np.ones_like(values)], 1)
        return Resampled(values.mean(), resampled(statistics, lambda sums: sums[..., 0] / sums[..., 1]), len(values))

    low, high = difference(estimate(samples[0]), estimate(samples[1]), 0.95)
    gap = samples[1].mean() - samples[0].mean()
    half = 1.96 * np.hypot(*(one.std(ddof=1) / 20 for one in samples))
    assert [low, high] == pytest.approx([gap - half, gap + half], abs=0.01)


def test_the_extremes_make_the_gap() -> None:
    gap = Gap({"a": Proportion(50, 100), "b": Proportion(90, 100), "c": Proportion(70, 100)})
    assert gap.ends == ("a", "b")
    assert gap.value == pytest.approx(0.4)
    low, high = gap.interval(0.95)
    alone = difference(Proportion(50, 100), Proportion(90, 100), 0.95)
    assert 0.2 < low < alone[0] < 0.4 < high == pytest.approx(alone[1])


def test_its_interval_holds_the_truth_as_often_as_it_says_and_equal_slices_seldom_show_one() -> None:
    rng = np.random.default_rng(7)
    shares, rounds = [0.7, 0.7, 0.7, 0.6, 0.8], 400
    held = false = 0
    for _ in range(rounds):
        gap = Gap({str(n): Proportion(float(rng.binomial(120, share)), 120) for n, share in enumerate(shares)})
        low, high = gap.interval(0.95)
        held += low <= 0.2 <= high
        equal = Gap({str(n): Proportion(float(rng.binomial(120, 0.7)), 120) for n in range(5)})
        false += equal.interval(0.95)[0] > 0
    assert held / rounds >= 0.95
    # 5 % at most, and a little for four hundred rounds (three standard errors).
    assert false / rounds <= 0.05 + 3 * (0.05 * 0.95 / rounds) ** 0.5


def test_it_never_lies_below_nothing() -> None:
    low, high = Gap({"a": Proportion(5, 10), "b": Proportion(5, 10)}).interval(0.95)
    assert low == 0.0 < high

"""A few human ratings correct the mean of many by a judge: unbiased whatever the judge, and never worse than alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from llmops.prediction_powered import corrected_mean, tuned_power
from llmops.stats import Values, quantile_of_normal

Sample = tuple[Values, Values, Values]


def drawn(seed: int, *, n: int = 60, alone: int = 600, bias: float = 0.3, follows: float = 0.8) -> Sample:
    """Human ratings of mean 0.5, and a judge that is off by `bias` and follows people by so much."""
    draw = np.random.default_rng(seed)
    truth = draw.normal(0.5, 0.2, n + alone)
    judge = bias + follows * truth + draw.normal(0, 0.1, n + alone)
    return truth[:n], judge[:n], judge[n:]


def slow(human: Values, judge: Values, alone: Values, given: float | None = None) -> tuple[float, float, float]:
    """PPI++ for a mean as arXiv:2311.01453 writes it, sum by sum: λ, the estimate and its variance."""
    n, big = len(human), len(alone)
    every = [*judge, *alone]
    if n < 2:
        return 0.0, sum(human) / n, math.inf
    mean_y, mean_f = sum(human) / n, sum(judge) / n
    covariance = sum((y - mean_y) * (f - mean_f) for y, f in zip(human, judge, strict=True)) / (n - 1)
    middle = sum(every) / len(every)
    spread = sum((f - middle) ** 2 for f in every) / (len(every) - 1)
    tuned = min(1.0, max(0.0, covariance / ((1 + n / big) * spread))) if spread else 0.0
    power = tuned if given is None else given
    rests = [y - power * f for y, f in zip(human, judge, strict=True)]
    value = power * sum(alone) / big + sum(rests) / n
    mean_alone, mean_rest = sum(alone) / big, sum(rests) / n
    variance = power**2 * sum((f - mean_alone) ** 2 for f in alone) / (big - 1) / big
    return power, value, variance + sum((rest - mean_rest) ** 2 for rest in rests) / (n - 1) / n


numbers = st.integers(0, 8).map(lambda eighths: eighths / 8)


@given(
    st.lists(st.tuples(numbers, numbers), min_size=2, max_size=30),
    st.lists(numbers, min_size=2, max_size=60),
    st.sampled_from([None, 0.0, 0.3, 1.0]),
)
def test_it_is_the_published_estimator(
    rated: list[tuple[float, float]], alone: list[float], power: float | None
) -> None:
    human, judge = (np.array(one) for one in zip(*rated, strict=True))
    found = corrected_mean(human, judge, alone, power=power)
    tuned, value, variance = slow(human, judge, np.array(alone), power)
    assert (found.power, found.value) == pytest.approx((tuned, value), abs=1e-9)
    if power is not None:
        assert found.se == pytest.approx(math.sqrt(max(0.0, variance)), abs=1e-9)


def test_its_error_is_that_of_leaving_each_rating_out_in_turn() -> None:
    human, judge, alone = drawn(5, n=12, alone=40)
    power, _, _ = slow(human, judge, alone)
    without = [slow(np.delete(human, one), np.delete(judge, one), alone)[1] for one in range(12)]
    spread = 11 / 12 * sum((one - np.mean(without)) ** 2 for one in without) + power**2 * alone.var(ddof=1) / 40
    assert corrected_mean(human, judge, alone).se == pytest.approx(math.sqrt(spread))


def test_the_interval_of_many_ratings_is_the_papers_normal_one() -> None:
    human, judge, alone = drawn(0, n=4000, alone=8000)
    found = corrected_mean(human, judge, alone)
    _, value, variance = slow(human, judge, alone)
    half = quantile_of_normal(0.975) * math.sqrt(variance)
    assert found.interval(0.95) == pytest.approx((value - half, value + half), rel=1e-4)


def test_a_judge_that_says_nothing_leaves_the_classical_interval() -> None:
    human = drawn(1, n=25)[0]
    found = corrected_mean(human, [0.7] * 25, [0.7] * 500)
    theirs = scipy.stats.t.interval(0.95, 24, loc=human.mean(), scale=scipy.stats.sem(human))
    assert found.power == 0.0
    assert found.interval(0.95) == pytest.approx(theirs)
    assert found.worth == pytest.approx(25)
    assert corrected_mean(human, human, []).interval(0.95) == pytest.approx(theirs)


def test_a_judge_that_is_always_right_is_worth_all_it_rated() -> None:
    truth = np.random.default_rng(2).normal(0.5, 0.2, 5000)
    found = corrected_mean(truth[:1000], truth[:1000], truth[1000:])
    assert found.power == pytest.approx(0.8, abs=0.05)  # N / (n + N)
    assert found.value == pytest.approx(truth.mean(), abs=1e-3)
    assert found.se == pytest.approx(truth.std(ddof=1) / math.sqrt(5000), rel=0.05)
    assert found.worth == pytest.approx(5000, rel=0.1)


def test_nineteen_of_twenty_intervals_cover_the_human_mean_of_a_biased_judge() -> None:
    found = [corrected_mean(*drawn(seed)) for seed in range(2000)]
    covered = sum(low <= 0.5 <= high for low, high in (one.interval(0.95) for one in found))
    assert 1870 <= covered <= 1930  # 1,900 expected, three standard deviations of 9.7
    assert abs(np.mean([one.judge for one in found]) - 0.5) > 0.15  # the judge alone is far off
    assert np.mean([one.value for one in found]) == pytest.approx(0.5, abs=0.002)
    assert np.mean([one.worth for one in found]) > 1.8 * 60


def test_with_few_ratings_in_steps_it_covers_as_often_as_the_ratings_alone_do() -> None:
    covered = np.zeros(2)
    for seed in range(600):
        draw = np.random.default_rng(seed)
        truth = draw.choice(5, 320, p=[0.05, 0.1, 0.2, 0.35, 0.3]) / 4  # mean 0.6875
        judge = np.where(draw.random(320) < 0.6, truth, np.minimum(1.0, truth + 0.25))
        for place, power in enumerate((None, 0.0)):
            low, high = corrected_mean(truth[:20], judge[:20], judge[20:], power=power).interval(0.95)
            covered[place] += low <= 0.6875 <= high
    # The variance as published covers 90 % here, the plain mean 94 %.
    assert covered[0] >= 0.93 * 600
    assert covered[0] >= covered[1] - 15


def test_it_is_no_worse_than_the_human_ratings_alone_where_the_judge_is_noise() -> None:
    found = [corrected_mean(*drawn(seed, follows=0.0)) for seed in range(300)]
    assert np.mean([one.worth for one in found]) == pytest.approx(60, rel=0.05)
    assert corrected_mean(*drawn(0, follows=-0.8)).power == 0.0  # a judge that is turned round is not used


def test_ratings_of_one_prompt_count_as_one_observation() -> None:
    human, judge, alone = drawn(3)
    twice = corrected_mean(
        np.repeat(human, 2),
        np.repeat(judge, 2),
        np.repeat(alone, 2),
        clusters=np.repeat(np.arange(60), 2).tolist(),
        clusters_alone=np.repeat(np.arange(60, 660), 2).tolist(),
        power=0.7,
    )
    once = corrected_mean(human, judge, alone, power=0.7)
    assert (twice.value, twice.se) == pytest.approx((once.value, once.se))
    assert twice.interval(0.95) == pytest.approx(once.interval(0.95))


def test_prompts_that_are_in_both_parts_are_no_independent_evidence() -> None:
    # 40 prompts whose answers are all alike, half of them rated: the judge's part moves against the rest.
    draw = np.random.default_rng(4)
    of_prompt = draw.normal(0.5, 0.2, 40)
    found = corrected_mean(
        of_prompt, 0.5 * of_prompt, of_prompt, clusters=range(40), clusters_alone=range(40), power=1.0
    )
    # λ·g + y − λ·f = y + (1 − 0.5)·y: the spread of 1.5 y over 40 prompts.
    assert found.se == pytest.approx(1.5 * of_prompt.std(ddof=1) / math.sqrt(40))


def test_full_agreement_on_few_things_is_not_taken_for_certainty() -> None:
    human = [0.0, 1.0] * 5
    plain = corrected_mean(human, human, [0.0, 1.0] * 500)
    careful = corrected_mean(human, human, [0.0, 1.0] * 500, span=1.0)
    wider = plain.power * (1 - 0.025 ** (1 / 10))
    assert careful.interval(0.95)[1] - plain.interval(0.95)[1] == pytest.approx(wider)


def test_one_rating_has_no_interval_and_none_is_a_bug() -> None:
    assert corrected_mean([0.4], [0.5], [0.1, 0.9]).interval(0.95) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="0 human ratings"):
        corrected_mean([], [], [0.5])
    with pytest.raises(ValueError, match="clusters"):
        corrected_mean([0.4, 0.5], [0.5, 0.5], [0.1], clusters=[0, 1])


def test_the_power_lies_between_nothing_and_all() -> None:
    human = np.array([0.0, 1.0])
    assert tuned_power(human, human * 0.1, np.array([0.0, 0.1] * 50)) == 1.0
    assert tuned_power(human[:1], human[:1], human) == 0.0

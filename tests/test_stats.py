"""Intervals hold the truth as often as they say, tests err as often as they say, and sample sizes suffice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.stats import (
    Bare,
    Exact,
    PairedProportion,
    Proportion,
    Quantile,
    Resampled,
    Values,
    bootstrap_p,
    detectable,
    holm,
    items_to_decide,
    one_sided_p,
    randomisation_p,
    resampled,
    resamples_for,
    reweighted,
    unseen_share,
    wilson,
)


def mean(sums: Values) -> Values:
    quotient: Values = sums[..., 0] / sums[..., 1]
    return quotient


def rows(values: Values) -> Values:
    return np.stack([values, np.ones_like(values)], axis=1)


def of_mean(values: Values, *, span: float | None = None, resamples: int = 10_000) -> Resampled:
    samples = resampled(rows(values), mean, resamples=resamples)
    return Resampled(float(values.mean()), samples, len(values), span)


def width(estimate: Resampled) -> float:
    low, high = estimate.interval(0.95)
    return high - low


# Shares


@given(st.integers(1, 2000), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilsons_interval_is_scipys(n: int, share: float, confidence: float) -> None:
    successes = round(share * n)
    theirs = scipy.stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert Proportion(successes, n).interval(confidence) == wilson(successes, n, confidence)


def test_a_share_of_nothing_may_be_anything() -> None:
    assert wilson(0, 0, 0.95) == (0.0, 1.0)


@given(st.integers(1, 500), st.sampled_from([0.8, 0.95]))
def test_none_of_n_leaves_what_clopper_and_pearson_leave(n: int, confidence: float) -> None:
    theirs = scipy.stats.binomtest(0, n).proportion_ci(confidence, method="exact")
    assert unseen_share(n, confidence) == pytest.approx(theirs.high, abs=1e-9)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        # Fagerland, Lydersen & Laake 2014 (Statistics in Medicine 33:2850), table VI, airway hyper-responsiveness
        # before and after stem cell transplantation: Newcombe's square-and-add interval is -0.507 to -0.026.
        (PairedProportion(both=1, only_first=7, only_second=1, neither=12), (-0.507, -0.026)),
    ],
)
def test_newcombes_interval_is_the_published_one(table: PairedProportion, expected: tuple[float, float]) -> None:
    assert table.interval(0.95) == pytest.approx(expected, abs=5e-4)


@given(*[st.integers(0, 60)] * 4)
def test_a_paired_difference_lies_in_its_interval_and_turns_with_its_models(a: int, b: int, c: int, d: int) -> None:
    if a + b + c + d == 0:
        return
    forth, back = PairedProportion(a, b, c, d), PairedProportion(a, c, b, d)
    low, high = forth.interval(0.95)
    assert -1 <= low <= forth.value <= high <= 1
    assert back.interval(0.95) == pytest.approx((-high, -low), abs=1e-12)


def test_models_that_agree_on_few_items_are_not_proven_equal() -> None:
    low, high = PairedProportion(both=5, only_first=0, only_second=0, neither=0).interval(0.95)
    assert low < -0.3
    assert high > 0.3


# Means and other functions of sums


@given(st.integers(20, 60), st.integers(0, 1000))
@settings(max_examples=15)
def test_the_interval_of_a_mean_is_as_wide_as_students(n: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(3, 2, n)
    low, high = of_mean(values).interval(0.95)
    theirs = scipy.stats.t.interval(0.95, n - 1, values.mean(), scipy.stats.sem(values))
    assert (high - low) == pytest.approx(theirs[1] - theirs[0], rel=0.12)


@pytest.mark.parametrize(("n", "population"), [(8, scipy.stats.norm), (40, scipy.stats.expon)])
def test_it_holds_the_truth_as_often_as_it_says(n: int, population: scipy.stats.rv_continuous) -> None:
    draw = np.random.default_rng(3)
    held, rounds = 0, 600
    for _ in range(rounds):
        low, high = of_mean(population.rvs(size=n, random_state=draw), resamples=999).interval(0.9)
        held += low <= population.mean() <= high
    # Three standard errors of the count below what is promised; plain percentiles of 8 hold 0.83.
    assert held / rounds >= 0.9 - 3 * math.sqrt(0.9 * 0.1 / rounds)


def test_items_of_one_cluster_are_one_observation() -> None:
    values = np.random.default_rng(0).normal(0, 1, 50)
    alone = of_mean(values)
    samples = resampled(rows(np.repeat(values, 7)), mean, np.repeat(np.arange(50), 7).tolist())
    together = Resampled(alone.value, samples, 50)
    assert together.interval(0.95) == pytest.approx(alone.interval(0.95), abs=1e-9)
    seven_times = of_mean(np.repeat(values, 7))
    assert width(seven_times) < 0.5 * width(alone), "what ignoring clusters would claim"


def test_columns_share_their_draws() -> None:
    values = np.random.default_rng(0).normal(0, 1, 30)
    both = resampled(np.hstack([rows(values), rows(values + 1)]), lambda sums: mean(sums[:, 2:]) - mean(sums[:, :2]))
    assert both == pytest.approx(np.ones(len(both)))


@pytest.mark.parametrize("clusters", [None, [0, 0, 1, 2, 2, 2, 3, 4]])
def test_items_can_be_weighed_where_sums_do_not_suffice(clusters: list[int] | None) -> None:
    """Of what is a function of sums, both give the same samples; a median is no such function, and clusters
    are drawn whole for it too."""
    values = np.random.default_rng(0).normal(size=8)
    by_sums = resampled(rows(values), mean, clusters, resamples=200)
    np.testing.assert_allclose(reweighted(8, lambda w: mean(w @ rows(values)), clusters, resamples=200), by_sums)

    seen: list[Values] = []

    def median(weights: Values) -> Values:
        seen.append(weights)
        return np.asarray([np.median(np.repeat(values, one.astype(int))) for one in weights])

    medians = reweighted(8, median, clusters, resamples=200)
    assert medians.shape == (200,)
    for weights in np.concatenate(seen)[:5]:
        assert clusters is None or weights[3] == weights[4] == weights[5]
    with pytest.raises(ValueError, match="8 items but 2 clusters"):
        reweighted(8, lambda w: w[:, 0], [0, 1])


def test_a_resample_that_has_none_of_a_slices_items_does_not_count() -> None:
    statistics = np.zeros((40, 2))
    statistics[:3] = [[1, 1], [0, 1], [1, 1]]
    with np.errstate(invalid="ignore"):
        samples = resampled(statistics, mean)
    assert np.isnan(samples).any()
    assert Resampled(2 / 3, samples, 3).interval(0.95) == (0.0, 1.0)


def test_items_that_all_agree_leave_room_for_those_not_seen() -> None:
    low, high = of_mean(np.ones(20), span=1.0).interval(0.95)
    assert (low, high) == pytest.approx((1 - unseen_share(20, 0.95), 1 + unseen_share(20, 0.95)))
    share = Resampled(1.0, np.ones(1000), 20, span=1.0, bounds=(0.0, 1.0))
    assert share.interval(0.95) == pytest.approx((low, 1.0)), "a share above 1 is none"
    assert of_mean(np.ones(20)).interval(0.95) == (-math.inf, math.inf)
    assert of_mean(np.ones(1)).interval(0.95) == (-math.inf, math.inf)


def test_very_many_items_are_resampled_less_often() -> None:
    assert resamples_for(3000) == 10_000
    assert resamples_for(100_000) == 3000
    assert resamples_for(10**7) == 1000


# Quantiles


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_quantiles_interval_holds_it_at_least_as_often_as_it_says(share: float) -> None:
    draw = np.random.default_rng(5)
    truth = float(scipy.stats.lognorm.ppf(share, 1))
    held = 0
    for _ in range(500):
        seen: Values = np.asarray(np.sort(draw.lognormal(0, 1, 200)), dtype=np.float64)
        low, high = Quantile(seen, share).interval(0.95)
        held += low <= truth <= high
    assert held / 500 >= 0.95 - 0.02


def test_a_quantile_of_few_is_open_at_the_end_that_was_not_seen() -> None:
    low, high = Quantile(np.arange(10, dtype=np.float64), 0.95).interval(0.95)
    assert high == math.inf
    assert low < 9


# Tests


def test_randomisation_gives_the_exact_permutation_test_of_few_items() -> None:
    draw = np.random.default_rng(1)
    for effect in (0.0, 0.8):
        first = draw.normal(0, 1, 12)
        second = first + draw.normal(effect, 1, 12)
        exact = scipy.stats.permutation_test(
            (first, second), lambda x, y, axis: (y - x).mean(axis), permutation_type="samples", n_resamples=math.inf
        )
        found = randomisation_p(rows(first), rows(second), mean)
        assert found == pytest.approx(
            exact.pvalue, abs=3 * math.sqrt(exact.pvalue * (1 - exact.pvalue) / 10_000) + 1e-3
        )


def test_bootstrap_and_randomisation_agree_and_are_two_sided() -> None:
    draw = np.random.default_rng(2)
    first = draw.normal(0, 1, 300)
    second = first + draw.normal(0.1, 1, 300)
    value = float((second - first).mean())
    samples = resampled(np.hstack([rows(first), rows(second)]), lambda sums: mean(sums[:, 2:]) - mean(sums[:, :2]))
    student = scipy.stats.ttest_rel(second, first).pvalue
    assert bootstrap_p(value, samples) == pytest.approx(student, abs=0.02)
    assert randomisation_p(rows(first), rows(second), mean) == pytest.approx(student, abs=0.02)


def test_equal_models_differ_by_chance_only() -> None:
    values = np.random.default_rng(0).normal(0, 1, 30)
    assert randomisation_p(rows(values), rows(values), mean) == 1.0
    assert bootstrap_p(0.0, np.zeros(100)) == 1.0


def test_p_is_the_error_at_which_the_interval_reaches_the_bound() -> None:
    share = Proportion(70, 100)
    p = one_sided_p(share, 0.6)
    # Wilson's interval is the score test turned round.
    assert p == pytest.approx(scipy.stats.norm.sf(0.1 / math.sqrt(0.6 * 0.4 / 100)), rel=1e-6)
    assert one_sided_p(share, 0.7) == 0.5
    assert one_sided_p(share, 0.8) == pytest.approx(scipy.stats.norm.sf(0.1 / math.sqrt(0.8 * 0.2 / 100)), rel=1e-6)
    assert one_sided_p(Exact(5.0), 4.0) == 0.0


def test_holms_adjustment_is_that_of_rs_p_adjust() -> None:
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_adjusting_never_helps_and_keeps_the_order(ps: list[float]) -> None:
    adjusted = holm(ps)
    assert all(before <= after <= 1 for before, after in zip(ps, adjusted, strict=True))
    pairs = sorted(zip(ps, adjusted, strict=True))
    assert [after for _, after in pairs] == sorted(after for _, after in pairs)


# Sample sizes


def test_the_detectable_difference_is_detected_at_the_stated_power() -> None:
    draw = np.random.default_rng(7)
    n, deviation = 200, 2.0
    effect = detectable(deviation / math.sqrt(n), confidence=0.95, power=0.8)
    found = sum(scipy.stats.ttest_1samp(draw.normal(effect, deviation, n), 0).pvalue < 0.05 for _ in range(2000))
    assert found / 2000 == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("share", "bound", "n"), [(0.58, 0.5, 60), (0.9, 0.93, 80)])
def test_so_many_items_decide_at_the_stated_power(share: float, bound: float, n: int) -> None:
    seen = Proportion(round(share * n), n)
    low, high = seen.interval(0.95)
    assert low < bound < high, "undecided so far"
    needed = items_to_decide(seen, bound, confidence=0.95)
    assert needed is not None
    draw = np.random.default_rng(11)
    decided = 0
    for successes in draw.binomial(needed, seen.value, 2000):
        low, high = wilson(int(successes), needed, 0.95)
        decided += low > bound or high < bound
    assert decided / 2000 == pytest.approx(0.8, abs=0.04)


def test_a_number_of_unknown_uncertainty_decides_nothing() -> None:
    bare = Bare(0.9, clusters=1000)
    assert bare.interval(0.95) == (-math.inf, math.inf)
    assert items_to_decide(bare, 0.1, confidence=0.95) is None
    assert one_sided_p(bare, 0.1) == 0.5


def test_no_number_of_items_decides_what_lies_at_the_bound() -> None:
    assert items_to_decide(Proportion(50, 100), 0.5, confidence=0.95) is None

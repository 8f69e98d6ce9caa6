"""Intervals, tests and sample sizes of measured numbers, in one place.

A number measured on items is a function of the sum of the items' sufficient statistics: one row of numbers per
item, such as matched and possible n-grams for BLEU. Resampling items is then a matrix product, whatever the metric.
Items that share a cluster (a prompt, a document) are drawn together, since they are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
ValueOf = Callable[[Values], Values]
"""From sums of statistics, `(…, k)`, to values, `(…)`; NaN where a value is not defined."""

RESAMPLES = 10_000
SEED = 20_260_117
"""Of every resampling: the same items give the same interval on every machine."""
_DRAWS = 300_000_000
"""Most draws of one resampling; beyond 30,000 clusters fewer resamples are taken, whose error is then small beside
what an interval is read for."""
_AT_ONCE = 1 << 22
"""Draws held in memory at one time."""
_NORMAL = NormalDist()


class Estimate(Protocol):
    """A measured number with its uncertainty.

    Attributes:
        value: measured on all items.
        clusters: independent observations behind it.
        se: standard error, in the number's own unit.
        method: how intervals are made, in a few words.
    """

    @property
    def value(self) -> float: ...
    @property
    def clusters(self) -> int: ...
    @property
    def se(self) -> float: ...
    @property
    def method(self) -> str: ...

    def interval(self, confidence: float) -> tuple[float, float]:
        """Two-sided, with `(1 − confidence) / 2` of error on each side."""
        ...


@dataclass(frozen=True)
class Resampled:
    """A number with the values it took in resamples of its items.

    The interval is the expanded percentile interval (Hesterberg 2015, "What Teachers Should Know About the
    Bootstrap", sec. 3.4): percentiles moved outward so that for a mean it is as wide as Student's, where the plain
    percentile interval of few items is too narrow.

    Attributes:
        samples: `(resamples,)`; NaN where the number was not defined.
        span: how far one item can move a mean at most (1 for a share), None where that has no bound. Where all
            resamples agree it says how far the truth may still be: of n items that all agree, at most
            `1 − (error / 2)^(1/n)` of such items may differ.
        bounds: values the number can take at all; the interval ends there.
    """

    value: float
    samples: Values
    clusters: int
    span: float | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    method: str = "bootstrap"

    @cached_property
    def _sorted(self) -> Values:
        return np.sort(self.samples[~np.isnan(self.samples)])

    @property
    def se(self) -> float:
        return float(np.std(self._sorted)) if len(self._sorted) else math.inf

    def interval(self, confidence: float) -> tuple[float, float]:
        _check_confidence(confidence)
        if self.clusters < 2 or not len(self._sorted):
            return self.bounds
        if self._sorted[0] == self._sorted[-1]:
            unseen = math.inf if self.span is None else self.span * unseen_share(self.clusters, confidence)
            return max(self.bounds[0], self.value - unseen), min(self.bounds[1], self.value + unseen)
        from scipy.special import stdtrit

        t = float(stdtrit(self.clusters - 1, (1 + confidence) / 2))
        tail = _NORMAL.cdf(-t * math.sqrt(self.clusters / (self.clusters - 1)))
        low, high = np.quantile(self._sorted, [tail, 1 - tail])
        return float(low), float(high)


@dataclass(frozen=True)
class Proportion:
    """A share of items, each independent of the others; Wilson's score interval (Wilson 1927)."""

    successes: float
    clusters: int
    method: str = "Wilson"

    @property
    def value(self) -> float:
        return self.successes / self.clusters

    @property
    def se(self) -> float:
        return math.sqrt(self.value * (1 - self.value) / self.clusters)

    def interval(self, confidence: float) -> tuple[float, float]:
        return wilson(self.successes, self.clusters, confidence)


@dataclass(frozen=True)
class PairedProportion:
    """Difference of two shares on the same items, `only_second − only_first` over all.

    The interval is Newcombe's square-and-add interval from two Wilson intervals with their correlation
    (Newcombe 1998, Statistics in Medicine 17:2635, method 10), which stays honest where few items differ or none.
    """

    both: float
    only_first: float
    only_second: float
    neither: float
    method: str = "Newcombe"

    @property
    def clusters(self) -> int:
        return round(self.both + self.only_first + self.only_second + self.neither)

    @property
    def value(self) -> float:
        return (self.only_second - self.only_first) / self.clusters

    @property
    def se(self) -> float:
        differ = self.only_first + self.only_second
        return math.sqrt(max(0.0, differ / self.clusters - self.value**2) / self.clusters)

    def interval(self, confidence: float) -> tuple[float, float]:
        n = self.clusters
        second, first = (self.both + self.only_second) / n, (self.both + self.only_first) / n
        low2, high2 = wilson(self.both + self.only_second, n, confidence)
        low1, high1 = wilson(self.both + self.only_first, n, confidence)
        phi = self._correlation()
        below = (second - low2) ** 2 - 2 * phi * (second - low2) * (high1 - first) + (high1 - first) ** 2
        above = (high2 - second) ** 2 - 2 * phi * (high2 - second) * (first - low1) + (first - low1) ** 2
        return self.value - math.sqrt(max(0.0, below)), self.value + math.sqrt(max(0.0, above))

    def _correlation(self) -> float:
        """Phi of the table, with Newcombe's correction for continuity where it is positive; 0 with an empty margin."""
        a, b, c, d = self.both, self.only_second, self.only_first, self.neither
        margins = (a + b) * (c + d) * (a + c) * (b + d)
        if not margins:
            return 0.0
        product = a * d - b * c
        if product > 0:
            product = max(product - self.clusters / 2, 0)
        return product / math.sqrt(margins)


@dataclass(frozen=True)
class Quantile:
    """A quantile of independent observations, between two of them by rank (binomial, no assumption on their shape).

    Attributes:
        ordered: the observations, rising.
        share: which quantile, 0 to 1; the value is the smallest that at least this share does not exceed.
    """

    ordered: Values
    share: float
    method: str = "order statistics"

    @property
    def clusters(self) -> int:
        return len(self.ordered)

    @property
    def value(self) -> float:
        return float(self.ordered[max(0, math.ceil(self.share * len(self.ordered)) - 1)])

    @property
    def se(self) -> float:
        low, high = self.interval(2 * _NORMAL.cdf(1) - 1)
        return (high - low) / 2

    def interval(self, confidence: float) -> tuple[float, float]:
        _check_confidence(confidence)
        from scipy.stats import binom

        n, tail = len(self.ordered), (1 - confidence) / 2
        # P(fewer than `rank` observations lie below the quantile) must not exceed the tail, on either side.
        lower = int(binom.ppf(tail, n, self.share))
        upper = int(binom.ppf(1 - tail, n, self.share)) + 1
        low = float(self.ordered[lower - 1]) if lower >= 1 else -math.inf
        high = float(self.ordered[upper - 1]) if upper <= n else math.inf
        return low, high


@dataclass(frozen=True)
class Exact:
    """A number that was not sampled, such as a size in bytes."""

    value: float
    clusters: int = 1
    se: float = 0.0
    method: str = "exact"

    def interval(self, confidence: float) -> tuple[float, float]:
        return self.value, self.value


@dataclass(frozen=True)
class Bare:
    """A number measured on items whose uncertainty is not known: no interval leaves anything out, so it decides
    nothing."""

    value: float
    clusters: int
    se: float = math.inf
    method: str = "none"

    def interval(self, confidence: float) -> tuple[float, float]:
        return -math.inf, math.inf


# Resampling


def resampled(
    statistics: Values,
    value_of: ValueOf,
    clusters: Sequence[int] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Values:
    """What a function of summed statistics becomes over resamples of the items, drawn with replacement.

    All columns share the draws: put the statistics of several metrics, models and slices side by side (zero where an
    item is not in the slice), and their samples belong together.

    Args:
        statistics: `(items, k)`.
        value_of: from sums `(some, k)` to values `(some,)` or `(some, m)`.
        clusters: `(items,)` a number for each item; items with one number are drawn together. None: each alone.

    Returns:
        `(resamples,)` or `(resamples, m)`; fewer than asked where there are very many clusters.
    """
    summed = _by_cluster(statistics, clusters)
    return np.concatenate([value_of(weights @ summed) for weights in _draws(len(summed), resamples, seed)])


def reweighted(
    items: int,
    value_of: ValueOf,
    clusters: Sequence[int] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Values:
    """As `resampled`, for what is no function of sums, such as the area under a curve of ranked items.

    Args:
        value_of: from how often each item is drawn, `(some, items)`, to values `(some,)` or `(some, m)`.
        clusters: `(items,)` a number for each item; items with one number are drawn together. None: each alone.

    Returns:
        `(resamples,)` or `(resamples, m)`.
    """
    if clusters is None:
        return np.concatenate([value_of(weights) for weights in _draws(items, resamples, seed)])
    if len(clusters) != items:
        raise ValueError(f"{items} items but {len(clusters)} clusters")
    distinct, place = np.unique(np.asarray(clusters), return_inverse=True)
    return np.concatenate([value_of(weights[:, place]) for weights in _draws(len(distinct), resamples, seed)])


def _by_cluster(statistics: Values, clusters: Sequence[int] | None) -> Values:
    """Statistics summed over each cluster, `(clusters, k)`."""
    statistics = np.asarray(statistics, dtype=np.float64)
    if clusters is None:
        return statistics
    if len(clusters) != len(statistics):
        raise ValueError(f"{len(statistics)} items but {len(clusters)} clusters")
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    summed = np.zeros((int(place.max()) + 1, statistics.shape[1]))
    np.add.at(summed, place, statistics)
    return summed


def resamples_for(clusters: int, wanted: int = RESAMPLES) -> int:
    """How many resamples are taken of so many clusters."""
    return max(1000, min(wanted, _DRAWS // max(1, clusters)))


def _draws(clusters: int, resamples: int, seed: int) -> Iterator[Values]:
    """How often each cluster is drawn, `(some, clusters)` at a time."""
    draw = np.random.default_rng(seed)
    left = resamples_for(clusters, resamples) if resamples >= 1000 else resamples
    kind = np.uint16 if clusters <= 1 << 16 else np.uint32
    while left:
        rows = max(1, min(left, _AT_ONCE // clusters))
        drawn = draw.integers(0, clusters, size=(rows, clusters), dtype=kind).astype(np.int64)
        drawn += (np.arange(rows) * clusters)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters).astype(np.float64)
        left -= rows


def _swaps(clusters: int, resamples: int, seed: int) -> Iterator[Values]:
    """Ones where a cluster's two results change places, `(some, clusters)` at a time."""
    draw = np.random.default_rng([seed, 1])
    left = resamples
    while left:
        rows = max(1, min(left, _AT_ONCE // clusters))
        bits = draw.integers(0, 256, size=(rows, -(-clusters // 8)), dtype=np.uint8)
        yield np.unpackbits(bits, axis=1, count=clusters).astype(np.float64)
        left -= rows


def randomisation_p(
    first: Values,
    second: Values,
    value_of: ValueOf,
    clusters: Sequence[int] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Values:
    """Two-sided p of "the two models are exchangeable" by approximate randomisation (Noreen 1989; Riezler & Maxwell
    2005): each cluster's results change places at random.

    Args:
        first, second: `(items, k)` statistics of two models on the same items.
        value_of: to values `()`, or `(m,)` of several metrics, which then share their draws.

    Returns:
        For each value `(1 + differences at least as large as the one seen) / (1 + resamples)`; never 0.
    """
    one, two = _by_cluster(first, clusters), _by_cluster(second, clusters)
    seen = np.abs(value_of(two.sum(0)) - value_of(one.sum(0)))
    total, gap = one.sum(0), two - one
    whole = total + two.sum(0)
    as_large, taken = np.zeros(seen.shape), 0
    for swaps in _swaps(len(one), resamples_for(len(one), resamples) if resamples >= 1000 else resamples, seed):
        moved = total + swaps @ gap
        differences = np.abs(value_of(whole - moved) - value_of(moved))
        # Equal sums may differ in the last bits.
        as_large += (differences >= seen * (1 - 1e-9) - 1e-12).sum(0)
        taken += len(swaps)
    return np.asarray((1 + as_large) / (1 + taken))


def bootstrap_p(value: float, samples: Values) -> float:
    """Two-sided p of "the difference is 0": how often a resampled difference is as far from the one seen as 0 is.

    Samples are moved by the value itself and both tails count. sacreBLEU's `--paired-bs` moves them by the mean of
    absolute differences and counts one tail, which is why its p is about half of this.
    """
    known = samples[~np.isnan(samples)]
    far = np.count_nonzero(np.abs(known - value) >= abs(value) * (1 - 1e-9) - 1e-12)
    return (1 + int(far)) / (1 + len(known))


# Closed forms


def wilson(successes: float, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a share: the p0 that a score test does not reject."""
    _check_confidence(confidence)
    if n < 1:
        return 0.0, 1.0
    z = quantile_of_normal((1 + confidence) / 2)
    share, z2 = successes / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # With no success, or no failure, the bound is exactly 0 or 1; rounding must not leave a rest.
    low = 0.0 if successes <= 0 else max(0.0, middle - half)
    high = 1.0 if successes >= n else min(1.0, middle + half)
    return low, high


def unseen_share(n: int, confidence: float) -> float:
    """Largest share of items that may differ when none of n did (Clopper & Pearson 1934 with no success)."""
    return float(1.0 - ((1.0 - confidence) / 2) ** (1.0 / n))


def quantile_of_normal(share: float) -> float:
    """z with `share` of the standard normal below it."""
    return _NORMAL.inv_cdf(share)


def one_sided_p(estimate: Estimate, bound: float) -> float:
    """p of "the truth is not above `bound`" (or not below, where the value lies below it): the error at which the
    interval's near end just reaches the bound. 0.5 or more where the value is at the bound.

    By bisection over the interval, so test and interval never disagree, whatever the interval's kind.
    """
    above = estimate.value > bound
    if estimate.value == bound:
        return 0.5

    def clear(error: float) -> bool:
        low, high = estimate.interval(1 - 2 * error)
        return low > bound if above else high < bound

    if isinstance(estimate, Exact):
        return 0.0
    small, large = 1e-9, 0.5 - 1e-9
    if clear(small):
        return small
    if not clear(large):
        return 0.5
    for _ in range(40):
        middle = math.sqrt(small * large)
        if clear(middle):
            large = middle
        else:
            small = middle
    return large


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979): below α, they keep the chance of any false finding among all of them below α."""
    order = sorted(range(len(ps)), key=lambda index: ps[index])
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted


# Sample sizes


def detectable(se: float, *, confidence: float = 0.95, power: float = 0.8) -> float:
    """Smallest difference that as many items as now would show with this power: (z_{1−α/2} + z_power) · se."""
    return (quantile_of_normal((1 + confidence) / 2) + quantile_of_normal(power)) * se


def items_to_decide(estimate: Estimate, bound: float, *, confidence: float, power: float = 0.8) -> int | None:
    """Items in all after which the interval leaves out `bound` with this power, if the truth is what was measured.

    None where the value is at the bound, or no finite error is known: no number of items decides then.
    """
    distance = abs(estimate.value - bound)
    if not distance or not math.isfinite(_half(estimate, bound, confidence, estimate.clusters)):
        return None
    spread, z = estimate.se * math.sqrt(estimate.clusters), quantile_of_normal(power)

    def enough(n: int) -> bool:
        return _half(estimate, bound, confidence, n) + z * spread / math.sqrt(n) <= distance

    low, high = estimate.clusters, 2 * estimate.clusters
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _half(estimate: Estimate, bound: float, confidence: float, n: int) -> float:
    """From the value to the interval's end towards `bound`, had n clusters shown the same."""
    times = n / estimate.clusters
    match estimate:
        case Proportion():
            same: Estimate = Proportion(times * estimate.successes, n)
        case PairedProportion():
            same = PairedProportion(
                both=times * estimate.both,
                only_first=times * estimate.only_first,
                only_second=times * estimate.only_second,
                neither=times * estimate.neither,
            )
        case _:
            same, times = estimate, 1 / math.sqrt(times)
    low, high = same.interval(confidence)
    half = estimate.value - low if estimate.value > bound else high - estimate.value
    return half * times if same is estimate else half


def _check_confidence(confidence: float) -> None:
    if not 0 <= confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not at {confidence}")

"""The mean of what people say, from many predictions of a judge and the few things that people rated too.

The judge's mean is corrected by how far the judge is off where both are known, so that no bias of the judge is left in
it; how much the judge's own spread is trusted is tuned by how well it follows people (PPI++).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmops.stats import Values, unseen_share

Names = NDArray[np.int64]
"""A number for each thing; things of one cluster share it."""


@dataclass(frozen=True, slots=True)
class PredictionPowered:
    """An estimate of a mean human rating; fits `llmops.stats.Estimate`.

    Attributes:
        power: λ, how much of the judge is used: 0 leaves the mean of the human ratings alone, 1 is plain PPI.
        human: mean of the human ratings; `judge` the mean of the judge's on everything.
        labelled, unlabelled: things rated by people, and by the judge alone.
        worth: human ratings that would be needed for a standard error as small without the judge.
        clusters: independent observations among the things rated by people.
        freedom: degrees of freedom of the standard error, by Welch and Satterthwaite.
        span, agrees: length of the scale, and whether the judge said what people said on everything they rated.
    """

    value: float
    se: float
    power: float
    human: float
    judge: float
    labelled: int
    unlabelled: int
    worth: float
    clusters: int
    freedom: float
    span: float | None
    agrees: bool
    method: str = "prediction-powered"

    def interval(self, confidence: float) -> tuple[float, float]:
        """Two-sided; by Student's t, which is wider than the normal of the paper where few things were rated."""
        if not 0 <= confidence < 1:
            raise ValueError(f"a confidence lies between 0 and 1, not at {confidence}")
        if self.clusters < 2:
            return -math.inf, math.inf
        from scipy.special import stdtrit

        half = float(stdtrit(self.freedom, (1 + confidence) / 2)) * self.se
        if self.agrees and self.span is not None:
            half += self.power * self.span * unseen_share(self.clusters, confidence)
        return self.value - half, self.value + half


def corrected_mean(
    human: Sequence[float] | Values,
    judge: Sequence[float] | Values,
    judge_alone: Sequence[float] | Values,
    *,
    clusters: Sequence[int] | None = None,
    clusters_alone: Sequence[int] | None = None,
    power: float | None = None,
    span: float | None = None,
) -> PredictionPowered:
    """Mean human rating of all things, of which people rated some, chosen at random.

    `λ · mean(judge_alone) + mean(human − λ · judge)`: unbiased for every λ that is not chosen by the data, and with
    λ = cov(human, judge) / ((1 + n/N) var(judge)), cut to 0 … 1, of least variance. A judge that says nothing gives
    λ = 0 and the plain mean of n ratings; one that is always right gives λ = N / (n + N) and the mean of n + N.

    Args:
        human: `(n,)` ratings by people.
        judge: `(n,)` the judge's ratings of the same things, on the same scale.
        judge_alone: `(N,)` its ratings of things that nobody rated; none leaves λ = 0.
        clusters: `(n,)`, `(N,)` numbers that things of one prompt share, also across the two; None: each is alone.
        power: λ; None tunes it.
        span: length of the scale. Where the judge agrees with people on all of n, the interval is widened by what a
            disagreement on as many as `unseen_share(n)` of things would move the mean; None leaves that out.

    Raises:
        ValueError: there is no human rating, or lengths differ.

    The standard error is the paper's where many things were rated; where few were, it also holds what tuning λ on them
    adds, which the paper's leaves out.

    Source: Angelopoulos, Bates, Fannjiang, Jordan & Zrnic 2023 (Science 382:669); Angelopoulos, Duchi & Zrnic 2023,
    arXiv:2311.01453, sec. 6.
    """
    y, f, g = (np.asarray(values, dtype=np.float64) for values in (human, judge, judge_alone))
    if not len(y) or len(y) != len(f):
        raise ValueError(f"{len(y)} human ratings and {len(f)} of the judge on the same things")
    given = _numbered(clusters, clusters_alone, len(y), len(g))
    used = (tuned_power(y, f, g) if power is None else power) if len(g) else 0.0
    value = float(used * g.mean() if len(g) else 0.0) + float((y - used * f).mean())
    parts = _variances(_moved(y, f, g, given[0], power), _moved_alone(used * g, given[1]))
    plain = _variances(_moved(y, f, g, given[0], 0.0), {})[0]
    variance = sum(parts)
    labelled = len(np.unique(given[0]))
    return PredictionPowered(
        value=value,
        se=math.sqrt(variance),
        power=used,
        human=float(y.mean()),
        judge=float(np.concatenate([f, g]).mean()),
        labelled=len(y),
        unlabelled=len(g),
        worth=len(y) * plain / variance if variance > 0 else float(len(y) + len(g)) if plain > 0 else float(len(y)),
        clusters=labelled,
        freedom=_freedom(parts, labelled, len(np.unique(given[1]))),
        span=span,
        agrees=bool(np.all(y == f)),
    )


def tuned_power(human: Values, judge: Values, judge_alone: Values) -> float:
    """λ of least variance for a mean, cut to 0 … 1; 0 where the judge always says the same, or little is known."""
    y, f, g = human - human[0], judge - judge[0], judge_alone - judge[0]
    return float(_powers(_sums(y, f, np.zeros(len(y), dtype=np.int64))[0], g))


def _sums(y: Values, f: Values, clusters: Names) -> Values:
    """`(clusters, 5)`: things, and sums of y, f, f² and y·f, of each cluster."""
    names, place = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(names), 5))
    np.add.at(sums, place, np.stack([np.ones(len(y)), y, f, f * f, y * f], axis=1))
    return sums


def _powers(sums: Values, alone: Values) -> Values:
    """λ of each row of sums `(…, 5)`: cov(y, f) / ((1 + n/N) var(f)), the variance over both parts."""
    n, y, f, ff, yf = (sums[..., place] for place in range(5))
    rest = len(alone)
    if not rest:
        return np.zeros(n.shape)
    both, squares = n + rest, ff + float(alone @ alone)
    spread = squares - (f + alone.sum()) ** 2 / both
    known = (n > 1) & (spread > 1e-12 * squares)  # a rounding error is no spread
    covariance = (yf - y * f / np.maximum(n, 1)) / np.maximum(n - 1, 1)
    variance = np.where(known, spread, 1.0) / (both - 1)
    return np.where(known, np.clip(covariance / ((1 + n / rest) * variance), 0.0, 1.0), 0.0)


def _moved(human: Values, judge: Values, alone: Values, clusters: Names, power: float | None) -> dict[int, float]:
    """How far each cluster of rated things moves the estimate; their squares sum to its variance.

    By leaving each out in turn (jackknife), λ tuned anew: the same ratings that choose λ would else make the interval
    too narrow where they are few (with 20 it would miss twice as often as it says). With a fixed λ and each thing
    alone it is s²/n.
    """
    y, f, g = human - human[0], judge - judge[0], alone - judge[0]  # a judge that says one thing leaves exact zeros
    each = _sums(y, f, clusters)
    if len(each) < 2:
        return dict.fromkeys(np.unique(clusters).tolist(), 0.0)
    rest = each.sum(0) - each
    used = _powers(rest, g) if power is None else np.full(len(rest), power if len(g) else 0.0)
    without = used * (g.mean() if len(g) else 0.0) + (rest[:, 1] - used * rest[:, 2]) / rest[:, 0]
    moved = math.sqrt((len(each) - 1) / len(each)) * (without.mean() - without)
    return dict(zip(np.unique(clusters).tolist(), moved.tolist(), strict=True))


def _moved_alone(values: Values, clusters: Names) -> dict[int, float]:
    """The same of things that only the judge rated, whose mean is linear in them."""
    if not len(values):
        return {}
    names, place = np.unique(clusters, return_inverse=True)
    moved = np.zeros(len(names))
    np.add.at(moved, place, (values - values.mean()) / len(values))
    if len(names) > 1:
        moved *= math.sqrt(len(names) / (len(names) - 1))
    return dict(zip(names.tolist(), moved.tolist(), strict=True))


def _variances(rated: dict[int, float], alone: dict[int, float]) -> tuple[float, float, float]:
    """Variances of the two parts, and twice their covariance where a cluster is in both."""
    first, second = (float(sum(value * value for value in one.values())) for one in (rated, alone))
    both = sum(rated[cluster] * alone[cluster] for cluster in rated.keys() & alone.keys())
    # Clusters that pull both ways must not make the whole negative.
    return first, second, max(2.0 * both, -first - second)


def _freedom(parts: tuple[float, float, float], labelled: int, alone: int) -> float:
    first, second, _ = parts
    below = first**2 / max(1, labelled - 1) + second**2 / max(1, alone - 1)
    return (first + second) ** 2 / below if below > 0 else float(max(1, labelled - 1))


def _numbered(
    clusters: Sequence[int] | None, alone: Sequence[int] | None, labelled: int, unlabelled: int
) -> tuple[Names, Names]:
    if (clusters is None) != (alone is None) and unlabelled:
        raise ValueError("clusters are given of all things, or of none")
    if clusters is None:
        return np.arange(labelled), np.arange(labelled, labelled + unlabelled)
    if (len(clusters), len(alone or ())) != (labelled, unlabelled):
        raise ValueError(f"{len(clusters)} and {len(alone or ())} clusters of {labelled} and {unlabelled} things")
    return np.asarray(clusters, dtype=np.int64), np.asarray(alone or (), dtype=np.int64)

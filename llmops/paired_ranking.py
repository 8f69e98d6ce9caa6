"""Models ranked by which of two answers people prefer: Bradley–Terry strengths with ties, and what is still open.

Strengths are in log-odds: of two answers of which one is preferred, the first wins with σ(difference). All that is read
of the ratings is how often each pair ended how, so a million of them are a table of models × models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np

from llmops.davidson import Table, finite, fitted, padded, sides_tell
from llmops.stats import RESAMPLES, SEED, Estimate, Resampled, Values, items_to_decide, reweighted
from llmops.votes import Places, places_of

HELD = 0.5
"""Wins and losses given to each model where no finite strengths fit the ratings. In resamples they are drawn from an
exponential distribution of mean 1 instead, as Clopper and Pearson's interval is of a loss that was never seen; a fixed
number would make nine wins of nine look like a known strength."""
_HELD_RESAMPLE = 0.05
"""The same, fixed, in resamples of ratings that finite strengths fit, some of which leave out the only loss of a model:
little beside any real result."""
_CELLS = 30_000_000
"""Most cells of models × models over all resamples; of more than 50 models fewer resamples are taken."""


@dataclass(frozen=True)
class Standing:
    """Where one model stands among those it can be compared with.

    Attributes:
        strength: log-odds, 0 in the mean of its group.
        group: number of its group: models that no chain of comparisons links cannot be ranked together.
        rank: in its group by strength, 1 the best; `ranks` the best and worst that the ratings leave open, all
            models' at once with the ranking's confidence.
        wins, ties, losses: ratings.
    """

    model: Hashable
    strength: Estimate
    group: int
    rank: int
    ranks: tuple[int, int]
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Gap:
    """Two neighbours in the ranking.

    Attributes:
        difference: strength of the better minus the worse.
        decided: the better is better with the confidence that all pairs share.
        more_clusters, more_ratings: prompts and ratings still needed, spread over models and prompts as those there
            are, for deciding it with four chances in five if the difference is what it seems; 0 where decided, None
            where no number is known to decide.
    """

    better: Hashable
    worse: Hashable
    difference: Estimate
    decided: bool
    more_clusters: int | None
    more_ratings: int | None


@dataclass(frozen=True)
class Ranking:
    """A ranking of models.

    Attributes:
        standings: the best first, one group after the other, the largest group first.
        gaps: between neighbours of one group, in the same order.
        tie: chance that two equal models' answers are called alike; None where it never happened.
        shown_first: chance that of two equal models the one shown first wins where one does; None if not asked for,
            and where it cannot be told from strengths, a model having been shown first always.
        held: whether no finite strengths fit (a model never lost, …), so that a few made-up results hold them.
        ratings, clusters: how many, and how many prompts (or ratings, if those are independent).
        confidence: of ranks; `pair_confidence` what each pair's interval must then have, so that all hold at once.
    """

    standings: tuple[Standing, ...]
    gaps: tuple[Gap, ...]
    tie: Estimate | None
    shown_first: Estimate | None
    held: bool
    ratings: int
    clusters: int
    confidence: float
    pair_confidence: float

    @property
    def groups(self) -> tuple[tuple[Hashable, ...], ...]:
        """Models that chains of comparisons link, the best first; more than one group is a design to be mended."""
        return tuple(
            tuple(one.model for one in self.standings if one.group == group)
            for group in sorted({one.group for one in self.standings})
        )

    def of(self, model: Hashable) -> Standing:
        """Raises KeyError of a model that was not compared."""
        for one in self.standings:
            if one.model == model:
                return one
        raise KeyError(model)

    def difference(self, first: Hashable, second: Hashable) -> Estimate | None:
        """Strength of the first minus the second; None where nothing links the two."""
        one, other = self.of(first), self.of(second)
        if one.group != other.group:
            return None
        assert isinstance(one.strength, Resampled)
        assert isinstance(other.strength, Resampled)
        return _difference(one.strength, other.strength)


def ranking(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    outcome: Sequence[int],
    *,
    clusters: Sequence[Hashable] | None = None,
    shown_first: bool = False,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Ranking:
    """Models in the order of strength, with intervals by bootstrap over clusters.

    Args:
        first, second: `(n,)` the models of each rating's two answers, in the order they were shown.
        outcome: `(n,)` above 0 where the first was preferred, below 0 the second, 0 where they are alike (also
            both bad); the steps of a rubric will do, by how much is not used.
        clusters: `(n,)` what was asked (the prompt); ratings of one are drawn together. None: all independent.
        shown_first: whether to estimate, and so take out, what being shown first is worth.

    Raises:
        ValueError: there is nothing, lengths differ, or a model is compared with itself.

    Sources: Bradley & Terry 1952; ties: Davidson 1970 (JASA 65:317); order: Davidson & Beaver 1977 (Biometrics
    33:693); ranks from simultaneous intervals of all differences: Mogstad, Romano, Shaikh & Wilhelm 2024 (Review of
    Economic Studies 91:476).
    """
    n = len(outcome)
    if not n or not len(first) == len(second) == n or (clusters is not None and len(clusters) != n):
        raise ValueError(f"{len(first)} and {len(second)} models with {n} outcomes are no comparisons")
    places, names = places_of([*first, *second])
    one, two, sign = places[:n], places[n:], np.sign(np.asarray(outcome)).astype(np.int64)
    if (one == two).any():
        raise ValueError(f"{names[one[one == two][0]]!r} is compared with itself")
    together = np.arange(n) if clusters is None else places_of(clusters)[0]
    m, independent = len(names), int(together.max()) + 1
    sums, table_of = _summed(one, two, sign, together, m, shown_first)
    whole = table_of(np.asarray(sums.sum(0)).reshape(1, -1))
    ties = bool((sign == 0).any())
    groups = _groups(one, two, m)
    sides = shown_first and sides_tell(whole, groups)
    linked = whole.met[0] > 0
    value = fitted(whole, groups=groups, ties=ties, sides=sides, held=0.0)
    held = not finite(value)
    if held:
        given = np.full((1, m), HELD)
        value = fitted(padded(whole, given, given, linked=linked), groups=groups, ties=ties, sides=sides, held=HELD)
    point = value.parameters[0]
    drawn = reweighted(
        independent,
        lambda weights: weights @ sums,
        resamples=min(resamples, max(1000, _CELLS // (m * m))),
    )
    luck = np.random.default_rng([SEED, 2])

    def resample(rows: Values) -> Values:
        wins, losses = luck.exponential(size=(2, len(rows), m)) if held else np.full((2, len(rows), m), _HELD_RESAMPLE)
        table = padded(table_of(rows), wins, losses, linked=linked)
        least = HELD if held else _HELD_RESAMPLE
        return fitted(table, groups=groups, ties=ties, sides=sides, held=least, start=point).parameters

    at_once = max(1, 1_000_000 // (m * m))
    samples = np.concatenate([resample(drawn[start : start + at_once]) for start in range(0, len(drawn), at_once)])

    def share(column: int, of: float) -> Estimate:
        """e^x / (e^x + of) of one parameter: 1 where it is log-odds, 2 where it is Davidson's log ν."""
        return Resampled(
            float(_share(point[column], of)), _share(samples[:, column], of), independent, span=1.0, bounds=(0.0, 1.0)
        )

    strengths = [Resampled(float(point[place]), samples[:, place], independent) for place in range(m)]
    pair_confidence = _pair_confidence(point[:m], samples[:, :m], groups, confidence)
    results = _results(one, two, sign, m)
    standings: list[Standing] = []
    gaps: list[Gap] = []
    sizes = np.bincount(groups)
    for number, group in enumerate(sorted(range(len(sizes)), key=lambda group: -sizes[group])):
        order = sorted(np.flatnonzero(groups == group).tolist(), key=lambda place: -point[place])
        ranks = _ranks([strengths[place] for place in order], pair_confidence)
        for rank, place in enumerate(order, start=1):
            wins, tied, losses = results[place].tolist()
            standings.append(
                Standing(names[place], strengths[place], number, rank, ranks[rank - 1], wins, tied, losses)
            )
        for better, worse in pairwise(order):
            difference = _difference(strengths[better], strengths[worse])
            gaps.append(_gap(names[better], names[worse], difference, pair_confidence, n))
    return Ranking(
        standings=tuple(standings),
        gaps=tuple(gaps),
        tie=share(m, 2.0) if ties else None,
        shown_first=share(m + 1, 1.0) if sides else None,
        held=held,
        ratings=n,
        clusters=independent,
        confidence=confidence,
        pair_confidence=pair_confidence,
    )


def _summed(
    one: Places, two: Places, sign: Places, together: Places, m: int, ordered: bool
) -> tuple[Any, Callable[[Values], Table]]:
    """What a fit needs of each cluster, `(clusters, columns)` and sparse, since a cluster holds few of all pairs; and
    how sums of rows become tables."""
    from scipy.sparse import csr_array

    key = one * m + two if ordered else np.minimum(one, two) * m + np.maximum(one, two)
    pairs, pair = np.unique(key, return_inverse=True)
    columns = [one, two, np.full_like(one, m), np.full_like(one, m + 1), m + 2 + pair]
    values = [sign / 2, -sign / 2, (sign == 0) * 1.0, sign / 2, np.ones(len(sign))]
    shape = (int(together.max()) + 1, m + 2 + len(pairs))
    sums = csr_array((np.concatenate(values), (np.tile(together, 5), np.concatenate(columns))), shape=shape)

    def table_of(rows: Values) -> Table:
        met = np.zeros((len(rows), m * m))
        met[:, pairs] = rows[:, m + 2 :]
        return Table(rows[:, :m], rows[:, m], rows[:, m + 1], met.reshape(-1, m, m))

    return sums, table_of


def _groups(one: Places, two: Places, m: int) -> Places:
    """`(m,)` numbers, equal for models that a chain of comparisons links."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    met = coo_array((np.ones(len(one)), (one, two)), shape=(m, m)).tocsr()
    return np.asarray(connected_components(met, directed=False)[1], dtype=np.int64)


def _results(one: Places, two: Places, sign: Places, m: int) -> Places:
    """`(m, 3)`: wins, ties and losses of each model."""
    wins = np.bincount(np.where(sign > 0, one, two)[sign != 0], minlength=m)
    losses = np.bincount(np.where(sign > 0, two, one)[sign != 0], minlength=m)
    ties = np.bincount(np.concatenate([one[sign == 0], two[sign == 0]]), minlength=m)
    return np.column_stack([wins, ties, losses])


def _pair_confidence(point: Values, samples: Values, groups: Places, confidence: float) -> float:
    """Confidence of single differences at which all differences within groups hold at once: of the largest of their
    studentised errors over the resamples (Romano & Wolf 2005)."""
    largest = np.zeros(len(samples))
    for one in range(len(point)):
        for other in range(one):
            errors = samples[:, one] - samples[:, other] - (point[one] - point[other])
            if groups[one] == groups[other] and (se := float(errors.std())) > 0:
                largest = np.maximum(largest, np.abs(errors) / se)
    shared = 2 * NormalDist().cdf(float(np.quantile(largest, confidence))) - 1
    return min(max(confidence, shared), 1 - 1e-9)


def _ranks(strengths: Sequence[Resampled], confidence: float) -> list[tuple[int, int]]:
    """Best and worst rank of each, the strongest first: better than it are those whose difference is surely above 0."""
    m = len(strengths)
    sure = np.zeros((m, m), dtype=bool)
    for better in range(m):
        for worse in range(better + 1, m):
            sure[better, worse] = _difference(strengths[better], strengths[worse]).interval(confidence)[0] > 0
    return list(zip((1 + sure.sum(0)).tolist(), (m - sure.sum(1)).tolist(), strict=True))


def _difference(first: Resampled, second: Resampled) -> Resampled:
    return Resampled(first.value - second.value, first.samples - second.samples, first.clusters)


def _gap(better: Hashable, worse: Hashable, difference: Resampled, confidence: float, ratings: int) -> Gap:
    decided = difference.interval(confidence)[0] > 0
    more: int | None = 0
    if not decided:
        # Equal but for rounding: nothing decides that.
        needed = items_to_decide(difference, 0.0, confidence=confidence) if difference.value > 1e-9 else None
        more = None if needed is None else needed - difference.clusters
    return Gap(
        better,
        worse,
        difference,
        decided,
        more,
        None if more is None else math.ceil(more * ratings / difference.clusters),
    )


def _share(logarithm: Values | float, of: float) -> Values:
    return np.asarray(1.0 / (1.0 + of * np.exp(-np.asarray(logarithm))))

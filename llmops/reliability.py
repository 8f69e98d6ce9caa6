"""How far many raters agree on things that not all of them rated: shares, Fleiss' kappa and Krippendorff's alpha.

Everything is a function of how often each thing was said to be each category; nothing is ever computed for pairs of
ratings, so a million of them are no more than a table.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmops.stats import RESAMPLES, Estimate, Resampled, Values, resampled
from llmops.votes import Votes

Level = Literal["nominal", "ordinal", "interval"]
"""What a disagreement counts: all alike, by how much of what was said lies between the two, or by the squared
difference of the two numbers."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """Agreement of many raters.

    Attributes:
        share: of pairs of raters who say the same, the mean over items.
        unanimous: share of items of which all say the same.
        fleiss: Fleiss' kappa; NaN where only one category was ever said, which shows nothing.
        alpha: Krippendorff's, at `level`; NaN as above.
        items: with two ratings or more; `alone` those with one, which show no agreement and are left out.
        ratings: of those `items`.
    """

    share: Estimate
    unanimous: Estimate
    fleiss: Estimate
    alpha: Estimate
    level: Level
    items: int
    alone: int
    ratings: int


def reliability(
    votes: Votes,
    *,
    level: Level = "nominal",
    clusters: Mapping[Hashable, Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> Reliability | None:
    """Agreement of everybody on everything, intervals by bootstrap over items; None where no item has two ratings.

    Where items have unequal numbers of ratings, each item counts once in the shares and in Fleiss' kappa (Gwet 2014,
    Handbook of Inter-Rater Reliability, ch. 2), and each rating counts once in alpha.

    Args:
        level: of alpha; `interval` takes the categories as numbers, `ordinal` their order.
        clusters: what each item belongs to (its prompt); items of one cluster are drawn together.

    Raises:
        ValueError: `interval`, and a category is no number.
    """
    counts = votes.counts
    rated = counts.sum(1)
    kept = rated >= 2
    if not kept.any():
        return None
    values = numbers_of(votes.categories) if level == "interval" else None
    k = counts.shape[1]
    together = votes.clusters_of(clusters)
    drawn = None if together is None else together[kept]
    parts = statistics_of(counts[kept])

    def values_of(sums: Values) -> Values:
        shares = sums[..., 1:3] / sums[..., :1]
        return np.stack(
            [shares[..., 0], shares[..., 1], fleiss_of(sums, k), alpha_of(_coincidences(sums, k), level, values)], -1
        )

    total = parts.sum(0)
    measured = [float(value) for value in values_of(total)]
    samples = resampled(parts, values_of, drawn, resamples=resamples)
    independent = int(kept.sum()) if drawn is None else len(np.unique(drawn))
    # Both are 1 − (mean disagreement) / chance; chance as it is, one item of the most ratings moves it so far at most.
    fleiss_chance = 1.0 - float((_margins(total, k) ** 2).sum())
    coincidences = _coincidences(total, k)
    weights = _distances(coincidences.sum(-1), level, values)
    alpha_chance = float(_chance(coincidences, weights))
    heaviest = float(rated[kept].max() / rated[kept].mean())
    spans = [
        1.0,
        1.0,
        1.0 / fleiss_chance if fleiss_chance > 0 else None,
        heaviest * float(weights.max()) / alpha_chance if alpha_chance > 0 else None,
    ]
    share, unanimous, fleiss, alpha = (
        Resampled(value, samples[:, place], independent, span=span, bounds=(0.0 if place < 2 else -1.0, 1.0))
        for place, (value, span) in enumerate(zip(measured, spans, strict=True))
    )
    return Reliability(
        share, unanimous, fleiss, alpha, level, int(kept.sum()), int((rated == 1).sum()), int(rated[kept].sum())
    )


def numbers_of(categories: tuple[Hashable, ...]) -> Values:
    """Categories as the numbers they are."""
    strange = [
        category for category in categories if isinstance(category, bool) or not isinstance(category, int | float)
    ]
    if strange:
        raise ValueError(f"{strange} are no numbers, so differences of them mean nothing; use `ordinal` or `nominal`")
    return np.asarray(categories, dtype=np.float64)


def statistics_of(counts: Values) -> Values:
    """Of each item with counts `(items, k)`, at least two ratings each: one, share of pairs alike, whether all are,
    share of each category (k), and the upper half of its table of coincidences (k(k+1)/2)."""
    rated = counts.sum(1, keepdims=True)
    pairs = rated * (rated - 1)
    alike = (counts * (counts - 1)).sum(1, keepdims=True) / pairs
    rows, columns = np.triu_indices(counts.shape[1])
    together = counts[:, rows] * (counts[:, columns] - (rows == columns)) / (rated - 1)
    return np.hstack([np.ones_like(rated), alike, counts.max(1, keepdims=True) == rated, counts / rated, together])


def fleiss_of(sums: Values, k: int) -> Values:
    """Fleiss' kappa (Fleiss 1971) of summed statistics `(…, 3 + k + k(k+1)/2)`; NaN where chance always agrees."""
    chance = (_margins(sums, k) ** 2).sum(-1)
    possible = 1.0 - chance
    known = possible > 1e-12
    return np.where(known, 1.0 - (1.0 - sums[..., 1] / sums[..., 0]) / np.where(known, possible, 1.0), np.nan)


def alpha_of(coincidences: Values, level: Level, values: Values | None = None) -> Values:
    """Krippendorff's alpha of tables of coincidences `(…, k, k)`; NaN where only one category was said.

    Args:
        values: `(k,)` the categories as numbers, for `interval` alone.

    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".
    """
    weights = _distances(coincidences.sum(-1), level, values)
    observed = (weights * coincidences).sum((-1, -2)) / coincidences.sum((-1, -2))
    chance = _chance(coincidences, weights)
    known = chance > 0
    return np.where(known, 1.0 - observed / np.where(known, chance, 1.0), np.nan)


def _margins(sums: Values, k: int) -> Values:
    return sums[..., 3 : 3 + k] / sums[..., :1]


def _coincidences(sums: Values, k: int) -> Values:
    """`(…, k, k)`, symmetric; it sums to the number of ratings."""
    rows, columns = np.triu_indices(k)
    table = np.zeros((*sums.shape[:-1], k, k))
    table[..., rows, columns] = sums[..., 3 + k :]
    table[..., columns, rows] = sums[..., 3 + k :]
    return table


def _distances(said: Values, level: Level, values: Values | None) -> Values:
    """Weight of each disagreement, `(k, k)` or, where it hangs on how often each was said `(…, k)`, `(…, k, k)`."""
    k = said.shape[-1]
    if level == "nominal":
        return 1.0 - np.eye(k)
    if level == "interval":
        assert values is not None
        return np.subtract.outer(values, values) ** 2
    # Ratings between the two, the two themselves by half: the difference of their mean ranks.
    rank = np.cumsum(said, axis=-1) - said / 2
    return (rank[..., :, None] - rank[..., None, :]) ** 2


def _chance(coincidences: Values, weights: Values) -> Values:
    """Mean disagreement, had all ratings been dealt out to the items at random."""
    said = coincidences.sum(-1)
    n = said.sum(-1)
    # Two different ratings, so a weight on the diagonal (0) never counts. One item of one pair: n is 2.
    return np.asarray((said[..., :, None] * weights * said[..., None, :]).sum((-1, -2)) / (n * (n - 1)))

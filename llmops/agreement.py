"""How far two judgements of the same things agree, by chance-corrected measures with intervals.

Judgements are positions in a list of categories. Everything is a function of the table of how often one said i and
the other j, so that resampling items that share a prompt together costs one matrix product.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from llmops.stats import RESAMPLES, Estimate, Resampled, Values, resampled
from llmops.votes import Votes

Weights = Literal["none", "linear", "quadratic"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of two judgements of the same things.

    Attributes:
        share: of things they judge alike, 0 to 1.
        kappa: Cohen's, −1 to 1; its value is NaN where both always say the same one thing, which shows nothing.
        pairs: judgements compared.
        weights: what a disagreement counts: `none` all alike, `quadratic` by the squared distance on the scale.
    """

    share: Estimate
    kappa: Estimate
    pairs: int
    weights: Weights


def agreement(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    categories: Sequence[Hashable],
    weights: Weights = "none",
    clusters: Sequence[int] | None = None,
    resamples: int = RESAMPLES,
) -> Agreement:
    """Share and kappa of paired judgements, their intervals by bootstrap.

    Args:
        first, second: `(n,)` judgements of the same things in the same order, each one of `categories`.
        categories: in the order of the scale where it has one.
        clusters: `(n,)` a number for each pair; pairs with one number (of one prompt) are drawn together.

    Raises:
        ValueError: lengths differ, there is nothing, or a judgement is no category.
    """
    tables = tables_of(first, second, categories)
    size = len(categories)
    weighing = _weights(size, weights)
    independent = len(tables) if clusters is None else len(set(clusters))
    same = np.trace(tables.reshape(-1, size, size), axis1=1, axis2=2)
    parts = np.column_stack([same, np.ones(len(same)), tables])
    samples = resampled(
        parts,
        lambda sums: np.stack([sums[..., 0] / sums[..., 1], kappa_of(sums[..., 2:], weighing)], axis=-1),
        clusters,
        resamples=resamples,
    )
    total = tables.sum(0)
    kappa, chance = float(kappa_of(total, weighing)), float(chance_of(total, weighing))
    # Kappa is 1 − (mean disagreement) / chance: with chance as it is, one thing moves it by so much at most.
    span = float(weighing.max()) / chance if chance > 0 else None
    return Agreement(
        Resampled(float(same.mean()), samples[:, 0], independent, span=1.0, bounds=(0.0, 1.0)),
        Resampled(kappa, samples[:, 1], independent, span=span, bounds=(-1.0, 1.0)),
        len(tables),
        weights,
    )


def agreement_by_pair(
    votes: Votes,
    *,
    weights: Weights = "none",
    clusters: Mapping[Hashable, Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> dict[tuple[Hashable, Hashable], Agreement]:
    """Agreement of each two raters on what both rated, in the order of `votes.rater_names`; those who share nothing
    are left out.

    Args:
        clusters: what each item belongs to (its prompt); items of one cluster are drawn together.
    """
    names, categories = votes.rater_names, votes.categories
    together = votes.clusters_of(clusters)
    order = np.argsort(votes.raters * len(votes.item_names) + votes.items)
    own = np.split(order, np.cumsum(np.bincount(votes.raters))[:-1])
    found: dict[tuple[Hashable, Hashable], Agreement] = {}
    for one, other in combinations(range(len(names)), 2):
        shared, at_one, at_other = np.intersect1d(
            votes.items[own[one]], votes.items[own[other]], assume_unique=True, return_indices=True
        )
        if len(shared):
            found[names[one], names[other]] = agreement(
                votes.labels[own[one][at_one]].tolist(),
                votes.labels[own[other][at_other]].tolist(),
                categories=range(len(categories)),
                weights=weights,
                clusters=None if together is None else together[shared].tolist(),
                resamples=resamples,
            )
    return found


def cohen_kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    categories: Sequence[Hashable] | None = None,
    weights: Weights = "none",
) -> float:
    """Cohen's kappa alone (Cohen 1960; weighted: 1968); NaN where both always say the same one thing.

    Args:
        categories: in the order of the scale; by default those that occur, sorted, which must then be comparable.
    """
    known = sorted({*first, *second}) if categories is None else categories  # type: ignore[type-var]
    return float(kappa_of(tables_of(first, second, known).sum(0), _weights(len(known), weights)))


def tables_of(first: Sequence[Hashable], second: Sequence[Hashable], categories: Sequence[Hashable]) -> Values:
    """`(n, k·k)`: for each pair a one where the first said row and the second said column."""
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} judgements are no pairs")
    place = {category: number for number, category in enumerate(categories)}
    strange = {*first, *second} - set(place)
    if strange:
        raise ValueError(f"{sorted(map(repr, strange))} are no categories")
    tables = np.zeros((len(first), len(place) ** 2))
    cells = [place[one] * len(place) + place[two] for one, two in zip(first, second, strict=True)]
    tables[np.arange(len(cells)), cells] = 1.0
    return tables


def kappa_of(tables: Values, weights: Values) -> Values:
    """1 − observed disagreement / disagreement by chance, of tables `(…, k·k)` with weights `(k, k)`, 0 = alike."""
    counts = _square(tables, weights)
    observed = (weights * counts).sum((-1, -2)) / counts.sum((-1, -2))
    chance = chance_of(tables, weights)
    return np.where(chance > 0, 1.0 - observed / np.where(chance > 0, chance, 1.0), np.nan)


def chance_of(tables: Values, weights: Values) -> Values:
    """Mean weight of disagreement, had the two judged independently of each other with the margins they have."""
    counts = _square(tables, weights)
    rows, columns = counts.sum(-1), counts.sum(-2)
    return np.asarray(np.einsum("...i,ij,...j->...", rows, weights, columns) / counts.sum((-1, -2)) ** 2)


def _square(tables: Values, weights: Values) -> Values:
    return tables.reshape(*tables.shape[:-1], len(weights), len(weights))


def _weights(size: int, kind: Weights) -> Values:
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(np.float64)
    powers = {"none": 0, "linear": 1, "quadratic": 2}
    return np.where(distance > 0, distance ** powers[kind], 0.0)

"""What raters together say of each thing: by majority, or weighing each rater by how reliable they show to be."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llmops.stats import Values
from llmops.votes import Places, Votes

ENOUGH_RATINGS = 20
"""Ratings of a typical rater from which on their reliability can be told; below it, a majority is the better guess."""
SMOOTHING = 0.1
"""Ratings added to each cell of each rater's table, so that what somebody was never seen to do stays possible."""
_TINY = 1e-10
_ALIKE = 1e-9
"""Two shares nearer than this are equal but for rounding."""


@dataclass(frozen=True)
class Consensus:
    """What is said of each thing.

    Attributes:
        votes: what it was made of.
        posterior: `(items, categories)`: how likely each is; of a majority, the share of votes.
        method: `majority` or `Dawid-Skene`.
    """

    votes: Votes
    posterior: Values
    method: str

    @cached_property
    def places(self) -> Places:
        """`(items,)` position of the likeliest category; −1 where two are equally likely, which decides nothing."""
        return winners(self.posterior)

    @property
    def labels(self) -> list[Hashable | None]:
        """The category of each item, None where undecided; in the order of `votes.item_names`."""
        categories = self.votes.categories
        return [categories[place] if place >= 0 else None for place in self.places.tolist()]

    @property
    def confidence(self) -> Values:
        """`(items,)` how likely the likeliest is."""
        return np.asarray(self.posterior.max(1))

    @property
    def undecided(self) -> list[Hashable]:
        """Items of which two categories are equally likely."""
        names = self.votes.item_names
        return [names[place] for place in np.flatnonzero(self.places < 0).tolist()]


@dataclass(frozen=True)
class DawidSkene(Consensus):
    """A consensus with what it holds of each rater.

    Attributes:
        confusion: `(raters, categories, categories)`: how often the rater says column of what is row; rows sum to 1.
        prior: `(categories,)` how frequent each is.
        objective: what was maximised, at each iteration: log-likelihood plus the smoothing's part. It never falls.
        converged: whether it stood still before the last iteration allowed.
    """

    confusion: Values
    prior: Values
    objective: tuple[float, ...]
    converged: bool

    @property
    def accuracy(self) -> Values:
        """`(raters,)` how often each says what is, of things as frequent as these."""
        return np.asarray(np.einsum("rcc,c->r", self.confusion, self.prior))


def consensus(votes: Votes) -> Consensus:
    """Dawid–Skene where raters typically (median) gave `ENOUGH_RATINGS`, the majority otherwise."""
    typical = float(np.median(np.bincount(votes.raters)))
    return dawid_skene(votes) if typical >= ENOUGH_RATINGS else majority(votes)


def majority(votes: Votes) -> Consensus:
    """The category most often said of each item; undecided where two are said equally often."""
    return Consensus(votes, votes.counts / votes.counts.sum(1, keepdims=True), "majority")


def majority_of_others(votes: Votes) -> Places:
    """`(n,)` for each rating, what most of the *other* raters said of the thing; −1 where nobody else rated it or they
    are split."""
    others = votes.counts[votes.items]
    others[np.arange(len(votes)), votes.labels] -= 1.0
    return winners(others)


def winners(shares: Values) -> Places:
    """`(n,)` position of the largest of each row of `(n, k)`; −1 where another is as large."""
    best = shares.argmax(1)
    largest = shares[np.arange(len(shares)), best]
    return np.where((shares > largest[:, None] - _ALIKE).sum(1) > 1, -1, best)


def dawid_skene(
    votes: Votes, *, smoothing: float = SMOOTHING, iterations: int = 500, tolerance: float = 1e-9
) -> DawidSkene:
    """Truth of each item and confusion matrix of each rater, by expectation maximisation from the shares of votes.

    Each iteration reads each rating once for each category: time and memory grow with ratings, not with items × raters.

    Args:
        smoothing: ratings added to each cell of each rater's table, and to the count of each category; 0 is the plain
            method, in which a rater seen only once becomes infallible or always wrong.
        tolerance: change of the objective per rating below which it stands still.

    Source: Dawid & Skene 1979, Applied Statistics 28:20; with a Dirichlet(1 + smoothing) prior on every distribution.
    """
    posterior = votes.counts / votes.counts.sum(1, keepdims=True)
    reached: list[float] = []
    converged = False
    while not converged and len(reached) < iterations:
        prior, confusion = _maximised(votes, posterior, smoothing)
        logs = _joint(votes, prior, confusion)
        evidence = np.logaddexp.reduce(logs, axis=1)
        posterior = np.exp(logs - evidence[:, None])
        smooth = smoothing * float(np.log(prior).sum() + np.log(confusion).sum()) if smoothing else 0.0
        reached.append(float(evidence.sum()) + smooth)
        converged = len(reached) > 1 and abs(reached[-1] - reached[-2]) <= tolerance * len(votes)
    return DawidSkene(votes, posterior, "Dawid-Skene", confusion, prior, tuple(reached), converged)


def _maximised(votes: Votes, posterior: Values, smoothing: float) -> tuple[Values, Values]:
    """Frequencies `(k,)` and confusion matrices `(raters, k, k)` that fit the posterior best."""
    raters, k = len(votes.rater_names), len(votes.categories)
    cells = votes.raters * k + votes.labels
    tables = np.stack(
        [np.bincount(cells, posterior[votes.items, truth], raters * k).reshape(raters, k) for truth in range(k)], axis=1
    )
    # Without smoothing a cell of 0 has no logarithm; so small a count changes nothing else.
    tables = np.maximum(tables + smoothing, _TINY)
    frequency = np.maximum(posterior.sum(0) + smoothing, _TINY)
    return frequency / frequency.sum(), tables / tables.sum(2, keepdims=True)


def _joint(votes: Votes, prior: Values, confusion: Values) -> Values:
    """`(items, k)` log of the chance of each truth together with what was said."""
    items, k = len(votes.item_names), len(votes.categories)
    logs = np.log(confusion)
    said = [np.bincount(votes.items, logs[votes.raters, truth, votes.labels], items) for truth in range(k)]
    return np.log(prior) + np.stack(said, axis=1)

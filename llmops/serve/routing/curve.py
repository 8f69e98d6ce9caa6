"""Quality against calls: what a way of ranking prompts buys, between all small and all large.

Measures of Ong et al. 2024, "RouteLLM: Learning to Route LLMs with Preference Data" (arXiv 2406.18665, sec. 3.1):
the performance gap recovered at a share of calls to the large model, `PGR = (quality − small) / (large − small)`; its
mean over all shares, APGR; and the smallest share that reaches a PGR of x %, CPT(x %). There APGR is a sum over ten
shares; here it is the area under the whole curve, which that sum approaches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Prompts in groups of one score, those that go to the large model first at the front.

    Attributes:
        order: `(items,)` positions of the items.
        starts: `(groups,)` where each group begins in `order`.
        scores: `(groups,)` falling.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    scores: Values

    @classmethod
    def by(cls, scores: Values) -> Ranking:
        """Falling by `scores`, `(items,)`, none of them NaN."""
        order = np.argsort(-scores, kind="stable")
        falling = scores[order]
        starts = np.flatnonzero(np.concatenate([[True], falling[1:] != falling[:-1]]))
        return cls(order, starts, falling[starts])

    def summed(self, values: Values) -> Values:
        """Sums over the items of the first 0, 1, … groups, `(…, items)` to `(…, groups + 1)`."""
        groups = np.add.reduceat(values[..., self.order], self.starts, axis=-1)
        return np.concatenate([np.zeros((*groups.shape[:-1], 1)), np.cumsum(groups, axis=-1)], axis=-1)


@dataclass(frozen=True, eq=False)
class Curve:
    """Points from no call to the large model to nothing but such calls; straight in between, which is what choosing
    within a group of one score by chance gives.

    Attributes:
        calls: `(…, points)` share of prompts that go to the large model, rising from 0 to 1.
        recovered: `(…, points)` PGR, from 0 to 1; above 1 where the small model is right and the large one wrong.
    """

    calls: Values
    recovered: Values

    def area(self) -> Values:
        """APGR, `(…)`: 0.5 for chance."""
        widths = np.diff(self.calls, axis=-1)
        heights = (self.recovered[..., 1:] + self.recovered[..., :-1]) / 2
        return np.asarray((widths * heights).sum(axis=-1))

    def calls_for(self, level: float) -> Values:
        """CPT, `(…)`: the smallest share of calls at which a PGR of `level` (0 to 1) is reached."""
        reached = self.recovered >= level - 1e-12
        after = np.argmax(reached, axis=-1)[..., None]
        before = np.maximum(after - 1, 0)
        x0, x1 = (np.take_along_axis(self.calls, at, axis=-1)[..., 0] for at in (before, after))
        y0, y1 = (np.take_along_axis(self.recovered, at, axis=-1)[..., 0] for at in (before, after))
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(y1 > y0, (level - y0) / (y1 - y0), 0.0)
        return np.asarray(np.where(reached.any(axis=-1), x0 + np.clip(share, 0, 1) * (x1 - x0), np.nan))

    def recovered_at(self, calls: Values) -> Values:
        """PGR at these shares of calls, for one curve."""
        return np.interp(calls, self.calls, self.recovered)


def curve(ranking: Ranking, gaps: Values, weights: Values | None = None) -> Curve:
    """The curve of a ranking.

    Args:
        gaps: `(items,)` quality of the large model's answer less that of the small one's.
        weights: `(some, items)` how often each item is drawn; None for once each.

    Returns:
        One curve, or some; NaN where the models are equally good, for then there is no gap to recover.
    """
    one = np.ones(len(gaps)) if weights is None else weights
    calls, won = ranking.summed(one), ranking.summed(one * gaps)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = won[..., -1:]
        return Curve(calls / calls[..., -1:], np.where(total > 0, won / total, np.nan))


def places_within(scores: Values, folds: NDArray[np.int64]) -> Values:
    """`(items,)` the place of each score within its fold, from 0 to 1, equal ones at their middle.

    Scores of several folds come from several models, whose scales differ a little: put in one order as they are, even
    length by itself would rank worse than it does. A router that is served ranks by one model, as within a fold.
    """
    from scipy.stats import rankdata

    places = np.empty(len(scores))
    for fold in np.unique(folds):
        inside = folds == fold
        places[inside] = (rankdata(scores[inside]) - 0.5) / inside.sum()
    return places


def random_curve() -> Curve:
    """Choosing by chance: as much of the gap as of the calls."""
    return Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]))


def oracle(gaps: Values) -> Ranking:
    """Knowing both answers beforehand: no ranking does better."""
    return Ranking.by(gaps)

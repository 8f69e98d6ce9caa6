"""The gap from which prompts go to the large model, for a floor of quality or a ceiling of cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmops.errors import InputError
from llmops.serve.routing.curve import Ranking
from llmops.serve.routing.router import Aim
from llmops.stats import quantile_of_normal

Values = NDArray[np.float64]

ALL, NONE = -1.0, 2.0
"""Thresholds at which every prompt, and none, goes to the large model: a gap lies from −1 to 1, and no router says 1
of anything."""
_TRIED = 500


def pick(scores: Values, small: Values, large: Values, clusters: Sequence[int], aim: Aim) -> float:
    """The highest threshold that keeps the floor, or the lowest that keeps the ceiling.

    The floor is kept where a one-sided test at `aim.confidence` rejects that the routed quality is below it. Thresholds
    are tried from "all to the large model" upward until one does not pass (a fixed sequence, so that trying many costs
    no confidence: Maurer et al. 1995; for risks, Angelopoulos et al. 2021, arXiv 2110.01052, sec. 2.2).

    Args:
        scores: `(rows,)` held-out gaps.
        small, large: `(rows,)` grades.
        clusters: `(rows,)` a number for each row; rows with one number are not independent.
    """
    ranking = Ranking.by(scores)
    if aim.kind == "cost":
        return _within(ranking, len(scores), calls_within(aim))
    # Fewest prompts to the small model first; at most so many thresholds, evenly spread over the prompts.
    groups = len(ranking.starts)
    tried = np.unique(np.linspace(0, groups, min(groups, _TRIED) + 1).round().astype(int))[::-1]
    found = ALL
    for number in tried[1:]:
        threshold = float(ranking.scores[number - 1]) if number else NONE
        routed = np.where(scores >= threshold, large, small)
        if not _kept(routed - aim.value * large, clusters, aim.confidence):
            break
        found = threshold
    return found


def _kept(excess: Values, clusters: Sequence[int], confidence: float) -> bool:
    """Whether the mean excess over the floor is shown to be 0 or more: a t-like test on sums of clusters."""
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(place, weights=excess)
    error = math.sqrt(float(np.var(sums)) * len(sums)) if len(sums) > 1 else math.inf
    z = quantile_of_normal(confidence) if confidence > 0.5 else 0.0
    return float(sums.sum()) - z * error >= -1e-9


def calls_within(aim: Aim) -> float:
    """Share of calls to the large model that a ceiling of cost allows.

    A prompt costs 1 at the large model and `small_cost` at the small one.

    Raises:
        InputError: not even the small model alone keeps it.
    """
    if aim.value < aim.small_cost:
        raise InputError(
            f"asking the small model alone costs {aim.small_cost:.0%} of asking the large one, and {aim.value:.0%} is "
            "the ceiling",
            fix="raise --cost, or mend --small-cost",
        )
    return 1.0 if aim.small_cost >= 1 else (aim.value - aim.small_cost) / (1 - aim.small_cost)


def _within(ranking: Ranking, rows: int, calls: float) -> float:
    """The lowest threshold at which no more than this share of the rows goes to the large model."""
    ends = np.append(ranking.starts[1:], rows)
    allowed = int(np.count_nonzero(ends <= calls * rows + 1e-9))
    if allowed == len(ends):
        return ALL
    return float(ranking.scores[allowed - 1]) if allowed else NONE

"""What a way of routing is worth on graded prompts: its curve beside chance, length and an oracle, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmops.serve.routing.curve import Curve, Ranking, curve, oracle, random_curve
from llmops.serve.routing.graded import Graded
from llmops.serve.routing.router import Expected, Interval
from llmops.stats import RESAMPLES, SEED, Resampled, resampled, reweighted

Values = NDArray[np.float64]

CONFIDENCE = 0.95
LEVELS = (0.5, 0.8)
"""Of the gap recovered, for CPT."""
BINS = 10
CURVE_RESAMPLES = 4000
"""A curve has to be drawn anew for each; so many leave an interval's end open by about a hundredth of its width."""


@dataclass(frozen=True, eq=False)
class Line:
    """One way of ranking prompts.

    Attributes:
        apgr: mean share of the gap recovered.
        calls_for: by level of `LEVELS`, the share of calls that recovers so much of the gap.
    """

    name: str
    curve: Curve
    apgr: Interval
    calls_for: dict[float, Interval]


@dataclass(frozen=True, eq=False)
class Judged:
    """Attributes:
    lines: the learned router, length alone, chance and the oracle.
    beats_length: APGR of the learned router less that of length, on the same resamples.
    expected: what the threshold gives.
    calibration: expected calibration error of the chances of the small and the large model, and of the gap.
    """

    lines: tuple[Line, ...]
    beats_length: Interval
    expected: Expected
    calibration: dict[str, float]

    def line(self, name: str) -> Line:
        return next(one for one in self.lines if one.name == name)


def judged(
    graded: Graded,
    chances: Values,
    to_large: NDArray[np.bool_],
    *,
    small_cost: float,
    ranks: Values | None = None,
    resamples: int = CURVE_RESAMPLES,
) -> Judged:
    """Judge chances and decisions that were made without having seen the grades of these rows.

    Args:
        chances: `(rows, 2)` probabilities that the small and the large model are right.
        to_large: `(rows,)` the decisions.
        small_cost: of an answer of the small model, as a share of the large one's.
        ranks: `(rows,)` what prompts are ranked by; None for the gap of `chances`, which one model must have made.
    """
    gaps = graded.gaps
    rankings = {
        "learned": Ranking.by(chances[:, 1] - chances[:, 0] if ranks is None else ranks),
        "length": Ranking.by(lengths_of(graded)),
        "oracle": oracle(gaps),
    }

    def measured(weights: Values | None) -> Values:
        """For each ranking APGR and the calls for each level."""
        found = [curve(one, gaps, weights) for one in rankings.values()]
        columns = [value for one in found for value in (one.area(), *(one.calls_for(level) for level in LEVELS))]
        return np.stack(columns, axis=-1)

    values = measured(None)
    samples = reweighted(len(graded), measured, graded.clusters, resamples=resamples)
    clusters = len(set(graded.clusters))

    def interval(value: float, sample: Values, bounds: tuple[float, float]) -> Interval:
        low, high = Resampled(value, sample, clusters, bounds=bounds).interval(CONFIDENCE)
        return Interval(value=value, low=low, high=high)

    wide = 1 + len(LEVELS)
    lines = [
        Line(
            name,
            curve(ranking, gaps),
            interval(float(values[place * wide]), samples[:, place * wide], (-10.0, 10.0)),
            {
                level: interval(float(values[at]), samples[:, at], (0.0, 1.0))
                for at, level in enumerate(LEVELS, start=place * wide + 1)
            },
        )
        for place, (name, ranking) in enumerate(rankings.items())
    ]
    exact = {level: Interval(value=level, low=level, high=level) for level in LEVELS}
    lines.insert(2, Line("random", random_curve(), Interval(value=0.5, low=0.5, high=0.5), exact))
    difference = interval(float(values[0] - values[wide]), samples[:, 0] - samples[:, wide], (-10.0, 10.0))
    return Judged(
        lines=tuple(lines),
        beats_length=difference,
        expected=expected(graded, to_large, small_cost=small_cost),
        calibration={
            "small": calibration_error(chances[:, 0], graded.small),
            "large": calibration_error(chances[:, 1], graded.large),
            "gap": calibration_error(chances[:, 1] - chances[:, 0], gaps),
        },
    )


def lengths_of(graded: Graded) -> Values:
    """`(rows,)` characters of each prompt."""
    return np.asarray([len(prompt) for prompt in graded.prompts], dtype=np.float64)


def expected(
    graded: Graded, to_large: NDArray[np.bool_], *, small_cost: float, resamples: int = RESAMPLES, seed: int = SEED
) -> Expected:
    """What these decisions give on these rows, with intervals by resampling them."""
    large = to_large.astype(np.float64)
    columns = np.column_stack(
        [
            np.where(to_large, graded.large, graded.small),
            graded.large,
            large,
            1 - large,
            (1 - large) * np.maximum(graded.gaps, 0.0),
            np.ones(len(graded)),
        ]
    )

    def value_of(sums: Values) -> Values:
        routed, best, calls, cheap, lost, rows = (sums[..., place] for place in range(6))
        with np.errstate(invalid="ignore", divide="ignore"):
            false_cheap = np.where(cheap > 0, lost / np.maximum(cheap, 1), 0.0)
            share = calls / rows
            return np.stack([routed / best, share, (1 - share) * (1 - small_cost), false_cheap], axis=-1)

    values = value_of(columns.sum(axis=0))
    samples = resampled(columns, value_of, graded.clusters, resamples=resamples, seed=seed)
    clusters = len(set(graded.clusters))
    bounds = ((0.0, 10.0), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0))
    found = []
    for place, (low, high) in enumerate(bounds):
        one = Resampled(float(values[place]), samples[:, place], clusters, span=1.0, bounds=(low, high))
        lowest, highest = one.interval(CONFIDENCE)
        found.append(Interval(value=one.value, low=lowest, high=highest))
    quality, calls, saving, false_cheap = found
    return Expected(quality=quality, large_share=calls, saving=saving, false_cheap=false_cheap, confidence=CONFIDENCE)


def calibration_error(predicted: Values, seen: Values, bins: int = BINS) -> float:
    """Expected calibration error: the mean distance between what was predicted and what came, over bins of as many
    items each (Naeini et al. 2015, with bins of equal mass)."""
    order = np.argsort(predicted, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(abs(predicted[part].mean() - seen[part].mean()) * len(part) for part in parts) / len(order))

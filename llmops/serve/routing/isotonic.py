"""A score turned into a probability by the rising steps that fit best: isotonic regression."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Steps:
    """A function that never falls: between two scores it goes straight, beyond the ends it stays.

    Attributes:
        scores: rising.
        values: one for each score, never falling.
    """

    scores: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.scores or len(self.scores) != len(self.values):
            raise ValueError(f"{len(self.scores)} scores and {len(self.values)} values")
        rising = all(one < two for one, two in zip(self.scores, self.scores[1:], strict=False))
        if not rising or any(one > two for one, two in zip(self.values, self.values[1:], strict=False)):
            raise ValueError("scores must rise and values must not fall")

    def __call__(self, score: float) -> float:
        right = bisect_right(self.scores, score)
        if right == 0:
            return self.values[0]
        if right == len(self.scores):
            return self.values[-1]
        left = right - 1
        share = (score - self.scores[left]) / (self.scores[right] - self.scores[left])
        return self.values[left] + share * (self.values[right] - self.values[left])


def isotonic(scores: Sequence[float], outcomes: Sequence[float]) -> Steps:
    """The rising function with the least squared distance to `outcomes`, by pooling adjacent violators.

    Neighbours in the wrong order are replaced by their mean until none is left (Ayer et al. 1955; Zadrozny & Elkan
    2002 for probabilities). Equal scores are one point. Of each level only its two ends are kept, between which the
    function is the same.

    Args:
        scores: `(items,)`, in any order, none of them NaN.
        outcomes: `(items,)`, such as 1 where the answer was right.

    Raises:
        ValueError: there are none, or not as many of one as of the other.
    """
    if not scores or len(scores) != len(outcomes):
        raise ValueError(f"{len(scores)} scores and {len(outcomes)} outcomes")
    levels: list[_Level] = []
    for score, outcome in sorted(zip(scores, outcomes, strict=True)):
        if levels and levels[-1].last == score:
            levels[-1].take(_Level(score, score, outcome, 1))
        else:
            levels.append(_Level(score, score, outcome, 1))
    pooled: list[_Level] = []
    for level in levels:
        pooled.append(level)
        while len(pooled) > 1 and pooled[-2].mean >= pooled[-1].mean:
            after = pooled.pop()
            pooled[-1].take(after)
    ends = [
        (score, level.mean)
        for level in pooled
        for score in ((level.first, level.last) if level.first < level.last else (level.first,))
    ]
    return Steps(tuple(score for score, _ in ends), tuple(value for _, value in ends))


@dataclass(slots=True)
class _Level:
    """Items that share one value."""

    first: float
    last: float
    total: float
    items: int

    @property
    def mean(self) -> float:
        return self.total / self.items

    def take(self, other: _Level) -> None:
        self.last, self.total, self.items = other.last, self.total + other.total, self.items + other.items

"""How far the slices of a breakdown lie apart: the largest difference between two of them, with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from llmops.stats import Estimate


def difference(first: Estimate, second: Estimate, confidence: float) -> tuple[float, float]:
    """Interval of second less first, two independent numbers, from their own intervals.

    Square-and-add: Newcombe 1998 (method 10) for shares, Zou & Donner 2008 for any other number. Where items of the
    two are alike (one document in both slices) it is wider than it had to be.
    """
    (low, high), (under, over) = first.interval(confidence), second.interval(confidence)
    value = second.value - first.value
    below = math.hypot(second.value - under, high - first.value)
    above = math.hypot(over - second.value, first.value - low)
    return value - below, value + above


@dataclass(frozen=True)
class Gap:
    """The largest difference between two of several slices, never below 0.

    Its interval's upper end holds for the two slices that truly lie farthest apart, whichever they are, as it is the
    highest of all pairs; its lower end is the highest of all pairs with their error shared among them (Bonferroni),
    so that many slices alone make no gap.

    Attributes:
        slices: the number over each slice; at least two.
    """

    slices: Mapping[str, Estimate]
    method: str = "all pairs, square-and-add"

    @property
    def ends(self) -> tuple[str, str]:
        """The slices with the lowest and the highest number."""
        return (
            min(self.slices, key=lambda name: self.slices[name].value),
            max(self.slices, key=lambda name: self.slices[name].value),
        )

    @property
    def value(self) -> float:
        low, high = self.ends
        return self.slices[high].value - self.slices[low].value

    @property
    def clusters(self) -> int:
        return sum(one.clusters for one in self.slices.values())

    @property
    def se(self) -> float:
        """Of the difference between the two that lie farthest apart."""
        low, high = self.ends
        return math.hypot(self.slices[low].se, self.slices[high].se)

    def interval(self, confidence: float) -> tuple[float, float]:
        pairs = list(combinations(self.slices.values(), 2))
        shared = 1 - (1 - confidence) / len(pairs)
        upper = [max(map(abs, difference(*pair, confidence))) for pair in pairs]
        # A pair's interval that holds 0 shows no gap.
        lower = [max(0.0, low, -high) for low, high in (difference(first, second, shared) for first, second in pairs)]
        return max(lower), max(upper)

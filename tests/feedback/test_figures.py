"""Numbers of a campaign's page: with their intervals, and without a sign where they are nothing."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from llmops.feedback.figures import number_of


@dataclass(frozen=True)
class Known:
    """A number whose interval is given."""

    value: float
    ends: tuple[float, float]
    clusters: int = 9
    se: float = 1.0
    method: str = "given"

    def interval(self, confidence: float) -> tuple[float, float]:
        return self.ends


@pytest.mark.parametrize(
    ("value", "ends", "said"),
    [
        (0.214, (-0.004, 0.41), "0.21 (0.00 to 0.41)"),
        (-0.001, (-0.2, 0.2), "0.00 (-0.20 to 0.20)"),
        (-0.006, (float("-inf"), float("inf")), "-0.01 (−∞ to ∞)"),
        (float("nan"), (0.0, 0.0), "–"),
    ],
)
def test_a_number_stands_with_its_interval_and_nothing_has_no_sign(
    value: float, ends: tuple[float, float], said: str
) -> None:
    assert number_of(Known(value, ends)) == said

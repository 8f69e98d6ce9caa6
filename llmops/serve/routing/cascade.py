"""Whether the small model was sure enough of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmops.confidence import mean_probability
from llmops.serve.routing.isotonic import Steps


@dataclass(frozen=True, slots=True)
class Sure:
    """When an answer of the small model stands.

    Attributes:
        at_least: of the confidence, 0 to 1.
        calibration: from the mean probability of the tokens to the probability that the answer is right; None takes
            the mean probability as it is.
    """

    at_least: float
    calibration: Steps | None = None

    def confidence(self, logprobs: Sequence[float]) -> float | None:
        """None where it cannot be told."""
        mean = mean_probability(logprobs)
        return mean if mean is None or self.calibration is None else self.calibration(mean)

    def of_all(self, answers: Sequence[Sequence[float]]) -> bool:
        """Whether every one of the answers to a request stands; not so where one cannot be told, or there is none."""
        found = [self.confidence(logprobs) for logprobs in answers]
        return bool(found) and all(one is not None and one >= self.at_least for one in found)

"""How sure the small model was of its answer, told from the probabilities of its tokens, and whether that is enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmops.serve.routing.isotonic import Steps


def mean_probability(logprobs: Sequence[float]) -> float | None:
    """Mean probability of an answer's tokens, 0 to 1; None where there is no token, or one without a number.

    Args:
        logprobs: natural logarithms.
    """
    total = 0.0
    for logprob in logprobs:
        # A NaN compares as false; engines round a certain token to a little above 0.
        if not logprob <= 1e-3:
            return None
        total += math.exp(min(logprob, 0.0))
    return total / len(logprobs) if logprobs else None


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

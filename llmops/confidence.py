"""How sure a model was of an answer, told from the probabilities of its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence


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

"""Whether a served model is the one that was trained: their next-token distributions along the same answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmops.errors import InputError
from llmops.eval.engines.reading import Passage, Reading
from llmops.eval.loading import asked_ids
from llmops.eval.measured import Answered
from llmops.files import digest_of
from llmops.stats import Estimate, Resampled, Values, resampled

OTHERS = 64
"""Likeliest tokens of the served model that are told apart; all others count as one."""
NUMBERS = ("kl", "flips")


@dataclass(frozen=True, slots=True, eq=False)
class Parity:
    """One suite's answers read by both.

    Attributes:
        served: what serves, as people name it.
        statistics: `(items, 3)`: the KL divergence and the changed likeliest tokens, each summed over the item's
            tokens, and the tokens.
        clusters: a number for each item; items with one number are not independent.
    """

    suite: str
    served: str
    statistics: Values
    clusters: tuple[int, ...]

    @property
    def digest(self) -> str:
        """sha256 over all it was computed from."""
        return digest_of({"suite": self.suite, "served": self.served, "statistics": self.statistics.tolist()})

    def estimate(self, number: str) -> Estimate:
        """`kl`: nats a token; `flips`: share (0 to 1) of tokens where another one became the likeliest."""
        column = NUMBERS.index(number)

        def ratio(sums: Values) -> Values:
            found: Values = sums[..., column] / sums[..., 2]
            return found

        value = float(ratio(self.statistics.sum(0)))
        span = 1.0 if number == "flips" else None
        return Resampled(
            value,
            resampled(self.statistics, ratio, self.clusters),
            len(set(self.clusters)),
            span,
            bounds=(0.0, span or np.inf),
        )


def passages_of(
    items: Sequence[Answered], tokenizer: Any, *, prompt: Literal["chat", "plain"], context: int | None
) -> list[Passage | None]:
    """What was asked and answered, to be read from the answer's first token on; None where nothing was answered.

    Args:
        prompt: how they were asked.
        context: tokens the model can read; answers are cut there.
    """
    found: list[Passage | None] = []
    for item in items:
        asked = asked_ids(tokenizer, item.messages, prompt)
        answer = tokenizer(item.answer, add_special_tokens=False, verbose=False)["input_ids"]
        # vLLM needs room for one token more.
        ids = tuple([*asked, *answer][: None if context is None else context - 1])
        found.append(Passage(ids, len(asked)) if len(ids) > len(asked) else None)
    return found


def divergence(trained: Values, served: Values) -> Values:
    """KL(trained ‖ served) of each place, in nats, with all tokens that are not told apart taken as one.

    Taking tokens together never raises it (data processing inequality), and with the likeliest 64 apart hardly
    lowers it: what is left out has little probability.

    Args:
        trained, served: `(n, k)` log-probabilities of the same tokens, in nats.
    """
    p, q = _with_rest(trained), _with_rest(served)
    terms = np.where(p > 0, p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300))), 0.0)
    # Rounding may leave what is 0 a little below it.
    return np.maximum(terms.sum(-1), 0.0)


def _with_rest(logprobs: Values) -> Values:
    """`(n, k + 1)` probabilities that sum to 1; the last is that of all other tokens."""
    p = np.exp(logprobs)
    rest = np.maximum(1 - p.sum(-1, keepdims=True), 1e-12)
    whole = np.concatenate([p, rest], -1)
    normalised: Values = whole / whole.sum(-1, keepdims=True)
    return normalised


def statistics_of(trained: Reading, served: Reading) -> NDArray[np.float64]:
    """`(3,)`: KL and changed likeliest tokens summed over a passage's tokens, and the tokens.

    Raises:
        ValueError: the two looked at other tokens.
    """
    if not np.array_equal(trained.ids, served.ids):
        raise ValueError("the two readings tell other tokens apart")
    kl = divergence(trained.at, served.at)
    return np.array([kl.sum(), float((trained.best != served.best).sum()), float(len(kl))])


def parity(suite: str, served: str, clusters: Sequence[int], readings: Mapping[int, tuple[Reading, Reading]]) -> Parity:
    """Both readings of a suite's answers.

    Args:
        clusters: a number for each of the suite's items; items with one number are not independent.
        readings: trained and served, by the item's place; items without an answer have none.

    Raises:
        InputError: no item has an answer.
    """
    if not readings:
        raise InputError(
            f"the model answered nothing on {suite}, so there is nothing to compare what is served by",
            fix="look at its answers, or take the rule `served_equals` out of the gate",
        )
    rows = [statistics_of(*pair) for pair in readings.values()]
    return Parity(suite, served, np.stack(rows), tuple(clusters[place] for place in readings))

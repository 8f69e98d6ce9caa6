"""Which of two models a judge prefers, answer by answer on the same items."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmops.errors import InputError
from llmops.eval.compare import in_order_of
from llmops.eval.judge.asking import Judge, counts_of_preferences
from llmops.eval.measured import ALL, Measured
from llmops.eval.metric import estimates, mean_of
from llmops.eval.scorers.judge import WORTH
from llmops.events import Listener
from llmops.rubric import Pairwise
from llmops.stats import one_sided_p


@dataclass(frozen=True, slots=True)
class Preferred:
    """How often a judge prefers the second model's answer, ties half.

    Attributes:
        win_rate: 0 to 1, over the items with a verdict; a half means that it prefers neither.
        low, high: its interval; p: two-sided, of "it prefers neither", by that interval.
        counts: parts and wholes, as a report of the judge has them.
    """

    judge: Mapping[str, Any]
    win_rate: float
    low: float
    high: float
    p: float
    wins: int
    ties: int
    losses: int
    counts: Mapping[str, list[int]]


def preferred(
    judge: Judge,
    first: Measured,
    second: Measured,
    *,
    confidence: float,
    unparsed_at_most: float,
    listener: Listener,
) -> Preferred:
    """Ask a judge about every item of two reports, in both orders.

    Raises:
        InputError: the judge's rubric rates one answer, the reports cannot be compared, or too many verdicts are
            missing.
        EnvironmentFault: the judge does not answer.
    """
    if not isinstance(judge.prompt.rubric.scale, Pairwise):
        raise InputError(
            f"the rubric {judge.prompt.rubric.name} rates one answer, and two models are to be compared",
            fix="take a judge with a rubric of kind pairwise; ratings are compared as a metric of the reports",
        )
    second = in_order_of(first, second)
    said = judge.prefer(
        [item.messages for item in first.items],
        [item.answer for item in first.items],
        [item.answer for item in second.items],
        listener=listener,
    )
    counts = counts_of_preferences(said)
    judge.check_parsed(counts, at_most=unparsed_at_most, listener=listener)
    places = [place for place, one in enumerate(said) if one.choice is not None]
    values = [1 - WORTH[str(said[place].choice)] for place in places]
    metric = mean_of("win_rate", judge.signature, values, span=1.0)
    found = estimates([metric], {ALL: range(len(values))}, [first.clusters[place] for place in places])
    estimate = found[ALL]["win_rate"]
    low, high = estimate.interval(confidence)
    return Preferred(
        judge={**judge.identity, "endpoint": judge.where},
        win_rate=estimate.value,
        low=low,
        high=high,
        p=min(1.0, 2 * one_sided_p(estimate, 0.5)) if math.isfinite(low) else 1.0,
        wins=values.count(1.0),
        ties=values.count(0.5),
        losses=values.count(0.0),
        counts=counts,
    )

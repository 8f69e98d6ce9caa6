"""Two models on one suite: by how much they differ, how sure that is, and on which items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from llmops.errors import InputError
from llmops.eval.measured import ALL, Measured
from llmops.eval.metric import Metric, differences, estimates, exchange_ps, share_of
from llmops.stats import Estimate, Resampled, bootstrap_p, detectable, holm, items_to_decide, one_sided_p

CONFIDENCE = 0.95
Finding = Literal["better", "worse", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Second less first in one metric over one group of items, in the metric's own points.

    Attributes:
        group: `breakdown=value` of a slice, or empty for all items.
        low, high: of the paired interval; infinite where there are too few items for one.
        p: two-sided, by approximate randomisation; `p_bootstrap` the same by paired bootstrap, or by the interval
            where that has a closed form; `p_holm` is `p` adjusted for all metrics and groups of the comparison.
        wins, ties, losses: items where the second is better, alike, worse.
        detectable: smallest difference that so many items show with 80 % power.
        finding: of the second against the first: `better` or `worse` where the interval leaves out 0 and `p_holm`
            agrees, else `inconclusive`.
        items_to_decide: items in all after which the interval leaves out 0 with 80 % power, if the difference is
            what was seen; None where that is decided already, or nothing was seen.
    """

    metric: str
    group: str
    items: int
    first: float
    second: float
    value: float
    low: float
    high: float
    p: float
    p_bootstrap: float
    p_holm: float
    wins: int
    ties: int
    losses: int
    detectable: float
    finding: Finding
    items_to_decide: int | None
    method: str


@dataclass(frozen=True, slots=True)
class Changed:
    """An item by its place in both reports, and by how much its score changed."""

    place: int
    metric: str
    change: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """Both reports, the second's items in the order of the first's, and what differs.

    Attributes:
        confidence: of the intervals.
        differences: all items before slices, metrics in the order of the suite.
        changed: the items whose first metric changed most, the largest change first.
    """

    first: Measured
    second: Measured
    confidence: float
    differences: tuple[Difference, ...]
    changed: tuple[Changed, ...]

    @property
    def suite(self) -> str:
        return str(self.first.suite["name"])

    def _repr_html_(self) -> str:
        """The page of the comparison in a frame of its own, for a notebook."""
        from llmops.eval.pages.comparison_page import comparison_page
        from llmops.eval.pages.document import framed

        return framed(comparison_page(self), title=f"{self.second.name} against {self.first.name} on {self.suite}")

    def of(self, metric: str, group: str = ALL) -> Difference:
        return next(one for one in self.differences if (one.metric, one.group) == (metric, group))


def compare(first: Measured, second: Measured, *, confidence: float = CONFIDENCE, named: int = 20) -> Comparison:
    """What changes from the first model to the second, item by item on the same items.

    Args:
        named: how many changed items are listed.

    Raises:
        InputError: the reports are of different suites, items or scorers.
    """
    second = in_order_of(first, second)
    groups, clusters = first.groups, first.clusters
    found = differences(first.metrics, second.metrics, groups, clusters)
    ps = exchange_ps(first.metrics, second.metrics, groups, clusters)
    pairs = list(zip(first.metrics, second.metrics, strict=True))
    # What is only known of all items has no value of a slice.
    keys = [(group, one, two) for group in groups for one, two in pairs if one.by_item or group == ALL]
    adjusted = holm([ps[group][one.name] for group, one, _ in keys])
    rows = [
        _difference(group, one, two, groups[group], found[group][one.name], ps[group][one.name], p_holm, confidence)
        for (group, one, two), p_holm in zip(keys, adjusted, strict=True)
    ]
    return Comparison(first, second, confidence, tuple(rows), tuple(_changed(*pairs[0], named)) if pairs else ())


def in_order_of(first: Measured, second: Measured) -> Measured:
    """`second` with its items in the order of `first`'s, paired by their ids.

    Raises:
        InputError: the two cannot be compared.
    """
    check_comparable(first, second)
    places = {item.id: place for place, item in enumerate(second.items)}
    order = [places[item.id] for item in first.items]
    by_name = {metric.name: metric for metric in second.metrics}
    return replace(
        second,
        items=tuple(second.items[place] for place in order),
        metrics=tuple(_reordered(by_name[metric.name], order) for metric in first.metrics),
    )


def is_drawn(report: Measured) -> bool:
    """Whether its answers were drawn at a temperature, so that asked again they would be others."""
    return bool((report.suite["settings"].get("generation") or {}).get("temperature"))


def changed_share(first: Measured, second: Measured) -> Estimate:
    """Share of the items that the second model answers with another text than the first.

    Raises:
        InputError: the reports cannot be compared, or answers were drawn, so that they differ by chance alone.
    """
    second = in_order_of(first, second)
    if is_drawn(first):
        raise InputError(
            f"answers to {first.suite['name']} are drawn at a temperature, so two of them say little about two models",
            fix="take the rule `changed_at_most` out of the gate, or set the suite's temperature to 0",
        )
    changed = [one.answer != other.answer for one, other in zip(first.items, second.items, strict=True)]
    metric = share_of("changed", "", changed, better="lower")
    return estimates([metric], {ALL: first.groups[ALL]}, first.clusters)[ALL]["changed"]


def weights_ratio(first: Measured, second: Measured) -> float:
    """Bytes of the second model's weights over those of the first.

    Raises:
        InputError: one of the models was not on this machine's disk.
    """
    if not all("weights_gib" in one.measures for one in (first, second)):
        raise InputError(
            "the size of the weights is only known of models on this machine's disk",
            fix="judge the models themselves, or take the rule `weights_at_most` out of the gate",
        )
    return second.measures["weights_gib"] / first.measures["weights_gib"]


def check_comparable(first: Measured, second: Measured) -> None:
    """Raises InputError where a difference of the two reports would say nothing."""
    names = first.suite["name"], second.suite["name"]
    if names[0] != names[1]:
        raise InputError(
            f"{first.name} was measured on {names[0]}, {second.name} on {names[1]}",
            fix="compare reports of one suite",
        )
    again = f"evaluate both with the suite as it is now: llmops compare {first.name} {second.name} SUITE"
    if first.suite["digest"] != second.suite["digest"]:
        raise InputError(
            f"the reports of {first.name} and {second.name} on {names[0]} measure different things: its items, "
            "decoding or scorers changed between them",
            fix=again,
        )
    ids = {item.id for item in first.items}, {item.id for item in second.items}
    if ids[0] != ids[1]:
        raise InputError(
            f"the reports on {names[0]} hold different items: {len(ids[0] - ids[1])} are only in that of {first.name}, "
            f"{len(ids[1] - ids[0])} only in that of {second.name}",
            fix=again,
        )
    signatures = {metric.name: metric.signature for metric in second.metrics}
    for metric in first.metrics:
        other = signatures.get(metric.name, "nothing")
        if other != metric.signature:
            raise InputError(
                f"{metric.name} of {first.name} was computed as {metric.signature}, of {second.name} as {other}",
                fix=again,
            )


def _reordered(metric: Metric, order: Sequence[int]) -> Metric:
    return replace(metric, statistics=metric.statistics[list(order)], per_item=metric.per_item[list(order)])


def _difference(
    group: str,
    one: Metric,
    two: Metric,
    members: Sequence[int],
    estimate: Estimate,
    p: float,
    p_holm: float,
    confidence: float,
) -> Difference:
    low, high = estimate.interval(confidence)
    gain = two.per_item[list(members)] - one.per_item[list(members)]
    if one.better == "lower":
        gain = -gain
    decided = (low > 0 or high < 0) and p_holm <= 1 - confidence
    up = (estimate.value > 0) == (one.better == "higher")
    finding: Finding = "inconclusive" if not decided else "better" if up else "worse"
    return Difference(
        metric=one.name,
        group=group,
        items=len(members),
        first=one.value(members),
        second=two.value(members),
        value=estimate.value,
        low=low,
        high=high,
        p=p,
        p_bootstrap=bootstrap_p(estimate.value, estimate.samples)
        if isinstance(estimate, Resampled)
        else min(1.0, 2 * one_sided_p(estimate, 0.0)),
        p_holm=p_holm,
        wins=int(np.count_nonzero(gain > 0)),
        ties=int(np.count_nonzero(gain == 0)),
        losses=int(np.count_nonzero(gain < 0)),
        detectable=detectable(estimate.se, confidence=confidence),
        finding=finding,
        items_to_decide=None if decided else items_to_decide(estimate, 0.0, confidence=confidence),
        method=estimate.method,
    )


def _changed(one: Metric, two: Metric, named: int) -> list[Changed]:
    change = np.nan_to_num(two.per_item - one.per_item)
    largest = np.argsort(-np.abs(change), kind="stable")[:named]
    return [Changed(int(place), one.name, float(change[place])) for place in largest if change[place]]

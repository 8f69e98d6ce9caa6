"""A metric measured item by item: its statistics, its value over any choice of items, and how sure that value is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmops.eval.formulas import formula
from llmops.stats import (
    Bare,
    Estimate,
    PairedProportion,
    Proportion,
    Resampled,
    ValueOf,
    Values,
    randomisation_p,
    resampled,
)


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric measured on every item of a suite.

    Attributes:
        name: as reports and gates call it.
        signature: how it was computed; numbers with different signatures must not be compared.
        formula: from summed statistics to the value, by its name in `formulas.py`.
        statistics: `(items, k)` sufficient statistics, in item order.
        per_item: `(items,)` the metric of each item alone, in the metric's own points; NaN where it has none.
        better: which way is good.
        binary: every item is right or wrong, so that the value is a share.
        span: values go from 0 to this, 1 for a share, 100 for points; None where they have no upper bound.
        signed: values may be below 0, without a bound.
    """

    name: str
    signature: str
    formula: str
    statistics: Values
    per_item: Values
    better: Literal["higher", "lower"] = "higher"
    binary: bool = False
    span: float | None = None
    signed: bool = False

    @property
    def by_item(self) -> bool:
        """It is a function of sums over items, so that slices and resamples have values; else only all items do."""
        return self.formula != "whole"

    def value(self, items: Sequence[int] | None = None) -> float:
        """The metric over the items at these positions, or over all; NaN where it is not defined."""
        chosen = self.statistics if items is None else self.statistics[list(items)]
        return float(formula(self.formula)(chosen.sum(0)))


def share_of(
    name: str, signature: str, hits: Sequence[bool | float], *, better: Literal["higher", "lower"] = "higher"
) -> Metric:
    """A metric that is the share of items that are right, or whatever else `hits` says of them."""
    return mean_of(name, signature, [float(hit) for hit in hits], better=better, span=1.0, binary=True)


def mean_of(
    name: str,
    signature: str,
    values: Sequence[float],
    *,
    better: Literal["higher", "lower"] = "higher",
    span: float | None = None,
    binary: bool = False,
    signed: bool = False,
) -> Metric:
    """A metric that is the mean over items of a value each has alone."""
    each = np.asarray(values, dtype=np.float64)
    statistics = np.stack([each, np.ones_like(each)], axis=1)
    return Metric(name, signature, "mean", statistics, each, better=better, span=span, binary=binary, signed=signed)


def whole(
    name: str,
    signature: str,
    value: float,
    items: int,
    *,
    better: Literal["higher", "lower"] = "higher",
    span: float | None = None,
) -> Metric:
    """A metric that is known of all items together only, neither of one nor of some."""
    statistics = np.tile([value / items, 1 / items], (items, 1))
    return Metric(name, signature, "whole", statistics, np.full(items, np.nan), better=better, span=span)


Groups = Mapping[str, Sequence[int]]
"""Positions of the items of each group: of each slice, or of all of them."""


def estimates(
    metrics: Sequence[Metric], groups: Groups, clusters: Sequence[int] | None = None
) -> dict[str, dict[str, Estimate]]:
    """Every metric over every group with its uncertainty, by group and metric; all from the same resamples.

    A metric that is not known by item has a value of all items and no interval; of a slice it is NaN.
    """
    clusters = _clusters(clusters)
    found: dict[str, dict[str, Estimate]] = {group: {} for group in groups}
    drawn: list[tuple[str, Metric, Values]] = []
    for group, members in groups.items():
        for metric in metrics:
            if not metric.by_item:
                found[group][metric.name] = Bare(metric.value(members), _independent(members, clusters))
            elif metric.binary and clusters is None:
                found[group][metric.name] = Proportion(float(metric.statistics[list(members), 0].sum()), len(members))
            else:
                drawn.append((group, metric, _masked(metric.statistics, members)))
    together = _together([(part, metric) for _, metric, part in drawn], clusters)
    for (group, metric, _), samples in zip(drawn, together, strict=True):
        found[group][metric.name] = Resampled(
            metric.value(groups[group]),
            samples,
            _independent(groups[group], clusters),
            metric.span,
            bounds=(-math.inf if metric.signed else 0.0, math.inf if metric.span is None else metric.span),
        )
    return {group: {metric.name: of_group[metric.name] for metric in metrics} for group, of_group in found.items()}


def differences(
    first: Sequence[Metric], second: Sequence[Metric], groups: Groups, clusters: Sequence[int] | None = None
) -> dict[str, dict[str, Estimate]]:
    """Second less first, of the same metrics on the same items in the same order, by group and metric."""
    clusters = _clusters(clusters)
    found: dict[str, dict[str, Estimate]] = {group: {} for group in groups}
    drawn: list[tuple[str, Metric, Metric]] = []
    for group, members in groups.items():
        for one, two in zip(first, second, strict=True):
            if (one.name, one.formula) != (two.name, two.formula):
                raise ValueError(f"{one.name} ({one.formula}) is not {two.name} ({two.formula})")
            if not one.by_item:
                change = two.value(members) - one.value(members)
                found[group][one.name] = Bare(change, _independent(members, clusters))
            elif one.binary and two.binary and clusters is None:
                found[group][one.name] = _paired(one, two, members)
            else:
                drawn.append((group, one, two))
    parts = [(_masked(metric.statistics, groups[group]), metric) for group, *pair in drawn for metric in pair]
    samples = _together(parts, clusters)
    for place, (group, one, two) in enumerate(drawn):
        members = groups[group]
        found[group][one.name] = Resampled(
            two.value(members) - one.value(members),
            samples[2 * place + 1] - samples[2 * place],
            _independent(members, clusters),
            one.span,
            bounds=(-math.inf, math.inf) if one.span is None else (-one.span, one.span),
        )
    return {group: {metric.name: of_group[metric.name] for metric in first} for group, of_group in found.items()}


def exchange_ps(
    first: Sequence[Metric], second: Sequence[Metric], groups: Groups, clusters: Sequence[int] | None = None
) -> dict[str, dict[str, float]]:
    """Two-sided p of "the two models are exchangeable", by group and metric, all from the same random swaps.

    1 for a metric that is not known by item: nothing can be swapped, so nothing is shown.
    """
    found: dict[str, dict[str, float]] = {group: {one.name: 1.0 for one in first} for group in groups}
    pairs = [(one, two) for one, two in zip(first, second, strict=True) if one.by_item]
    parts = [(group, one, two) for group in groups for one, two in pairs]
    if not parts:
        return found
    value_of = _side_by_side([metric for _, metric, _ in parts])
    ps = randomisation_p(
        np.hstack([_masked(one.statistics, groups[group]) for group, one, _ in parts]),
        np.hstack([_masked(two.statistics, groups[group]) for group, _, two in parts]),
        value_of,
        clusters,
    )
    for (group, metric, _), p in zip(parts, ps.tolist(), strict=True):
        found[group][metric.name] = p
    return found


def _together(parts: Sequence[tuple[Values, Metric]], clusters: Sequence[int] | None) -> list[Values]:
    """Samples of each metric, all from the same draws."""
    if not parts:
        return []
    value_of = _side_by_side([metric for _, metric in parts])
    samples = resampled(np.hstack([statistics for statistics, _ in parts]), value_of, clusters)
    return list(samples.T)


def _side_by_side(metrics: Sequence[Metric]) -> ValueOf:
    """From the sums of all of them, one after another, `(…, k)`, to their values, `(…, metrics)`."""
    ends = np.cumsum([metric.statistics.shape[1] for metric in metrics])
    functions = [formula(metric.formula) for metric in metrics]

    def value_of(sums: Values) -> Values:
        pieces = np.split(sums, ends[:-1], axis=-1)
        return np.stack([function(piece) for function, piece in zip(functions, pieces, strict=True)], axis=-1)

    return value_of


def _masked(statistics: Values, members: Sequence[int]) -> Values:
    """Zero outside of the group: an item that is drawn there adds nothing."""
    masked = np.zeros_like(statistics)
    masked[list(members)] = statistics[list(members)]
    return masked


def _paired(one: Metric, two: Metric, members: Sequence[int]) -> PairedProportion:
    first, second = one.per_item[list(members)] > 0.5, two.per_item[list(members)] > 0.5
    count = np.count_nonzero
    return PairedProportion(
        both=int(count(first & second)),
        only_first=int(count(first & ~second)),
        only_second=int(count(~first & second)),
        neither=int(count(~first & ~second)),
    )


def _clusters(clusters: Sequence[int] | None) -> Sequence[int] | None:
    """None where every item is alone, for which there are closed forms."""
    return None if clusters is None or len(set(clusters)) == len(clusters) else clusters


def _independent(members: Sequence[int], clusters: Sequence[int] | None) -> int:
    return len(members) if clusters is None else len({clusters[index] for index in members})


def to_json(metric: Metric) -> dict[str, Any]:
    """All but its statistics, which stand with the items."""
    return {
        "metric": metric.name,
        "signature": metric.signature,
        "formula": metric.formula,
        "better": metric.better,
        "binary": metric.binary,
        "span": metric.span,
        **({"signed": True} if metric.signed else {}),
    }


def from_json(record: Mapping[str, Any], statistics: Sequence[Sequence[float]], per_item: Sequence[float]) -> Metric:
    """The metric that `to_json` wrote, with the statistics and values of its items."""
    return Metric(
        record["metric"],
        record["signature"],
        record["formula"],
        np.asarray(statistics, dtype=np.float64),
        np.asarray(per_item, dtype=np.float64),
        better=record["better"],
        binary=record["binary"],
        span=record["span"],
        signed=record.get("signed", False),
    )

"""The page of one report: its scores, their intervals by slice, how they are distributed, and every item."""

from __future__ import annotations

from llmops.eval.measured import Measured, summary
from llmops.eval.pages import items
from llmops.eval.pages.document import document
from llmops.eval.pages.measures import measures_section
from llmops.eval.pages.repeat import repeat
from llmops.eval.pages.verdict import verdict_section
from llmops.eval.report import interval_of, lines, value_of
from llmops.markup import Markup, grid, tag
from llmops.plots import Row, histogram, intervals
from llmops.records import Score, Verdict


def report_page(measured: Measured, verdict: Verdict | None = None) -> str:
    """One HTML file that needs no other and no network; the same numbers as in the table and the JSON."""
    content = items.data([measured])
    suite = str(measured.suite["name"])
    rows = [(line.name, line.values[0], line.interval) for line in lines([summary(measured)])]
    return document(
        f"{measured.name} on {suite}",
        tag(
            "header",
            tag("h1", f"{measured.name} on {suite}"),
            tag("p", f"{len(measured.items):,} items, report {measured.digest[:12]}", class_="lead"),
        ),
        *([verdict_section(verdict)] if verdict is not None else []),
        tag(
            "section",
            tag("h2", "Scores"),
            grid(("metric", "value", "95% interval"), rows, caption=f"Scores on {suite}"),
        ),
        *([_slices(measured)] if measured.slices else []),
        _distributions(measured),
        measures_section([measured]),
        items.section(content),
        tag("section", tag("h2", "Repeat it"), repeat(measured)),
        data=items.embedded(content),
    )


def _slices(measured: Measured) -> Markup:
    """A plot a metric: all items first, then each slice."""
    shown = []
    for score in measured.scores:
        groups = {"all items": score}
        for name, of_slice in measured.slices.items():
            groups.update((name, one) for one in of_slice if one.metric == score.metric)
        if len(groups) > 1:
            rows = [_row(name, one) for name, one in groups.items()]
            shown.append(intervals(rows, title=f"{score.metric} by slice", axis=score.metric))
    return tag("section", tag("h2", "Slices"), tag("div", *shown, class_="plots")) if shown else Markup("")


def _row(name: str, score: Score) -> Row:
    interval = interval_of(score)
    said = value_of(score) + (f" ({interval})" if interval else "")
    return Row(name, score.value, score.low, score.high, said)


def _distributions(measured: Measured) -> Markup:
    shown = [
        histogram(metric.per_item.tolist(), title=f"{metric.name} of single items", axis=metric.name)
        for metric in measured.metrics
    ]
    return tag("section", tag("h2", "Distributions"), tag("div", *shown, class_="plots"))

"""The page of a comparison: differences with their intervals, by slice, and both answers to every item."""

from __future__ import annotations

from llmops.eval.compare import Comparison
from llmops.eval.comparison_table import HEADINGS, heading, row
from llmops.eval.measured import ALL, Measured
from llmops.eval.pages import items
from llmops.eval.pages.document import document
from llmops.eval.pages.measures import measures_section
from llmops.eval.pages.repeat import comparing, repeat
from llmops.eval.pages.verdict import verdict_section
from llmops.markup import Markup, grid, tag
from llmops.plots import Row, histogram, intervals
from llmops.records import Verdict


def comparison_page(comparison: Comparison, verdict: Verdict | None = None) -> str:
    """One HTML file that needs no other and no network; the same numbers as in the table and the JSON.

    Args:
        verdict: of the second model; its margins are drawn where its rules compare.
    """
    content = items.data([comparison.first, comparison.second])
    first, second = comparison.first.name, comparison.second.name
    caption = f"{heading(comparison)}; {comparison.confidence:.0%} paired intervals"
    return document(
        f"{first} and {second} on {comparison.suite}",
        tag(
            "header",
            tag("h1", f"{second} against {first}"),
            tag("p", f"On {comparison.suite}, {len(comparison.first.items):,} items", class_="lead"),
            _said(comparison),
        ),
        *([verdict_section(verdict)] if verdict is not None else []),
        tag(
            "section", tag("h2", "Differences"), grid(HEADINGS, list(map(row, comparison.differences)), caption=caption)
        ),
        _forests(comparison, verdict),
        _distributions(comparison),
        measures_section([comparison.first, comparison.second]),
        items.section(content),
        tag(
            "section",
            tag("h2", "Repeat it"),
            tag("pre", comparing(comparison)),
            *(part for one in (comparison.first, comparison.second) for part in (tag("h3", one.name), repeat(one))),
        ),
        data=items.embedded(content),
    )


def _said(comparison: Comparison) -> Markup:
    """The differences over all items, a sentence each."""
    sentences = []
    for one in comparison.differences:
        if one.group == ALL:
            cells = dict(zip(HEADINGS, row(one), strict=True))
            said = f"{one.metric} {cells['difference']} ({cells['interval']}): {cells['second is']}"
            sentences.append(tag("li", said))
    return tag("ul", *sentences, class_="facts")


def _forests(comparison: Comparison, verdict: Verdict | None) -> Markup:
    """A plot a metric: all items first, then each slice, around the line of no difference."""
    shown = []
    for metric in dict.fromkeys(one.metric for one in comparison.differences):
        rows = []
        for one in comparison.differences:
            if one.metric == metric:
                cells = dict(zip(HEADINGS, row(one), strict=True))
                said = f"{cells['difference']} ({cells['interval']})"
                kind = "" if one.finding == "inconclusive" else one.finding
                rows.append(Row(one.group or "all items", one.value, one.low, one.high, said, kind))
        shown.append(
            intervals(
                rows,
                title=f"{metric}: second less first",
                axis=f"difference in {metric}",
                zero=True,
                margins=_margins(verdict, comparison.suite, metric),
            )
        )
    return tag("section", tag("h2", "By how much they differ"), tag("div", *shown, class_="plots"))


def _margins(verdict: Verdict | None, suite: str, metric: str) -> list[float]:
    """Bounds of the rules that compare this metric."""
    if verdict is None:
        return []
    number = f"{suite} {metric}"
    asked = [
        rule
        for rule in verdict.rules
        if str(rule["rule"]).startswith((f"{number} ", f"{number} ["))
        and (" no worse by " in rule["rule"] or " better by " in rule["rule"])
    ]
    return sorted({float(rule["bound"]) for rule in asked})


def _distributions(comparison: Comparison) -> Markup:
    shown = [
        histogram(
            (two.per_item - one.per_item).tolist(),
            title=f"Change of {one.name} of single items",
            axis=f"change of {one.name}",
        )
        for one, two in zip(comparison.first.metrics, comparison.second.metrics, strict=True)
    ]
    return tag("section", tag("h2", "Distributions"), tag("div", *shown, class_="plots"))


def file_name(first: Measured, second: Measured) -> str:
    """Under which the page of both is kept: the suite, and the beginnings of both reports' digests."""
    suite = str(first.suite["name"]).replace(":", "-").replace("/", "-")
    return f"compare-{suite}-{first.digest[:12]}-{second.digest[:12]}.html"

"""A verdict as a page shows it."""

from __future__ import annotations

from llmops.eval.report import verdict_heading
from llmops.eval.verdict import lines
from llmops.markup import Markup, grid, tag
from llmops.records import Verdict


def verdict_section(verdict: Verdict) -> Markup:
    """The result, then a row a rule."""
    headings = ("result", "rule", "value", f"{verdict.confidence:.0%} interval", "note")
    return tag(
        "section",
        tag("h2", "Verdict"),
        tag("p", verdict_heading(verdict), class_="result"),
        grid(headings, lines(verdict), caption="Rules of the gate"),
    )

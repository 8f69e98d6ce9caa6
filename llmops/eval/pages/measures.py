"""Numbers beside the scores, of one model or of two."""

from __future__ import annotations

from collections.abc import Sequence

from llmops.eval.measured import Measured
from llmops.eval.report import measured_as
from llmops.markup import Markup, grid, tag


def measures_section(reports: Sequence[Measured]) -> Markup:
    """A row a measure; empty where a report does not hold it."""
    names = dict.fromkeys(name for report in reports for name in report.measures)
    if not names:
        return Markup("")
    rows = [
        (name, *(measured_as(name, report.measures[name]) if name in report.measures else "" for report in reports))
        for name in names
    ]
    shown = grid(("measure", *(report.name for report in reports)), rows, caption="Length, speed and what went wrong")
    return tag("section", tag("h2", "Measures"), shown)

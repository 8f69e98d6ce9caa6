"""A comparison as people read it in a terminal or a pull request."""

from __future__ import annotations

import math

from rich.markup import escape
from rich.table import Table

from llmops.eval.compare import Comparison, Difference
from llmops.eval.measured import ALL
from llmops.eval.report import shape_of

HEADINGS = ("metric", "slice", "first", "second", "difference", "interval", "p", "p (Holm)", "+ / = / −", "second is")


def table(found: Comparison, *, slices: bool = True) -> Table:
    """One row per metric, then per slice and metric; what is surely different in bold."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading in ("metric", "slice", "second is") else "right")
    for one in found.differences:
        if one.group == ALL or slices:
            cells = [escape(cell) for cell in row(one)]
            shown.add_row(*cells, style="" if one.finding == "inconclusive" else "bold")
    return shown


def heading(found: Comparison) -> str:
    """Which model is which."""
    return f"{found.suite}: {found.first.name} (first) and {found.second.name} (second)"


def to_markdown(found: Comparison) -> str:
    """The same in Markdown."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *(row(one) for one in found.differences)]
    title = f"**{found.suite}**: `{found.first.name}` (first) and `{found.second.name}` (second)\n\n"
    return title + "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in one) + " |" for one in rows) + "\n"


def row(one: Difference) -> tuple[str, ...]:
    """The cells of a difference."""
    shape = shape_of([one.first, one.second])
    return (
        one.metric,
        one.group,
        format(one.first, shape),
        format(one.second, shape),
        format(one.value, f"+{shape}"),
        f"{_end(one.low, shape)} to {_end(one.high, shape)}",
        _p(one.p),
        _p(one.p_holm),
        f"{one.wins} / {one.ties} / {one.losses}",
        conclusion(one),
    )


def conclusion(one: Difference) -> str:
    """What may be said of the second model."""
    if one.finding != "inconclusive":
        return one.finding
    if one.items_to_decide is None:
        return "INCONCLUSIVE"
    return f"INCONCLUSIVE: about {one.items_to_decide - one.items:,} more items would decide"


def _end(value: float, shape: str) -> str:
    return format(value, f"+{shape}") if math.isfinite(value) else "∞" if value > 0 else "−∞"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"

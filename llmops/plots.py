"""Plots as SVG that a page holds inside itself: values with their intervals, a histogram, and counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmops.markup import Markup, joined, tag

WIDTH = 460
LEFT, RIGHT = 20, 20
"""Columns of pixels left and right of the plotted area; names stand above their intervals, so that a plot fits a
telephone without becoming unreadable."""
ROW, TOP, BELOW = 40, 4, 46
BARS = 138
"""Height of the tallest bar."""


@dataclass(frozen=True, slots=True)
class Row:
    """A value with its interval; an end without bound is infinite or None.

    Attributes:
        said: the value and its interval as the table says them.
        kind: `better` or `worse` where that is sure; it chooses the colour, never alone the meaning.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    said: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to columns of pixels."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 3)


def intervals(
    rows: Sequence[Row],
    *,
    title: str,
    axis: str,
    zero: bool = False,
    margins: Sequence[float] = (),
    even: float | None = None,
) -> Markup:
    """A row a value: its interval as a line, the value as a point.

    Args:
        axis: what the values are.
        zero: they are differences; a line stands where there is none.
        margins: bounds of a gate, as dashed lines.
        even: the value that leans to neither side, such as a half; a line stands there.
    """
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None and math.isfinite(end)]
    scale = _axis([*ends, *margins, *([0.0] if zero else []), *([] if even is None else [even])])
    height = TOP + ROW * len(rows)
    parts = [_frame(scale, height, axis)]
    if zero:
        parts.append(_upright(scale.at(0.0), height, "zero"))
    if even is not None:
        parts.append(_upright(scale.at(even), height, "zero", f"{even:g}: no leaning"))
    parts += [_upright(scale.at(one), height, "margin", f"margin {one:g}") for one in margins]
    for place, row in enumerate(rows):
        y = TOP + ROW * place + 29
        low = scale.at(row.low) if row.low is not None and math.isfinite(row.low) else LEFT
        high = scale.at(row.high) if row.high is not None and math.isfinite(row.high) else WIDTH - RIGHT
        most = max(8, 56 - len(row.said))  # both stand in one line
        name = row.name if len(row.name) <= most else row.name[: most - 1] + "…"
        parts.append(
            tag(
                "g",
                tag("title", f"{row.name}: {row.said} {row.kind}".strip()),
                tag("text", name, x=LEFT + 6, y=y - 13),
                tag("text", row.said, x=WIDTH - RIGHT, y=y - 13, text_anchor="end", class_="said"),
                tag("line", x1=low, x2=high, y1=y, y2=y, class_="interval"),
                tag("circle", cx=scale.at(row.value), cy=y, r=5),
                class_=f"row {row.kind}".strip(),
            )
        )
    described = "; ".join(f"{row.name}: {row.said} {row.kind}".strip() for row in rows)
    return _svg(parts, height + BELOW, title, described)


def histogram(values: Sequence[float], *, title: str, axis: str) -> Markup:
    """How many items have which value, in at most 24 classes of equal width; NaN is left out."""
    known = np.asarray([value for value in values if math.isfinite(value)], dtype=float)
    if not known.size:
        return Markup("")
    low, high = float(known.min()), float(known.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(known, bins=min(24, max(2, math.isqrt(known.size))), range=(low, high))
    scale, height = _axis([low, high]), TOP + 12 + BARS
    most = int(counts.max())
    parts = [_frame(scale, height, axis)]
    for count, start, end in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        tall = round(BARS * count / most, 3)
        x = scale.at(start)
        parts.append(
            tag(
                "rect",
                tag("title", f"{start:.4g} to {end:.4g}: {count:,} items"),
                x=x,
                y=round(height - tall, 3),
                width=round(max(scale.at(end) - x - 1, 0.5), 3),
                height=tall,
                class_="bar",
                data_count=count,
            )
        )
    tallest = int(np.argmax(counts))
    middle = min(max(scale.at(float(edges[tallest] + edges[tallest + 1]) / 2), LEFT + 30), WIDTH - RIGHT - 30)
    parts.append(tag("text", f"{most:,} items", x=middle, y=TOP + 8, text_anchor="middle", class_="tick"))
    return _svg(parts, height + BELOW, title, f"{known.size:,} items from {low:.4g} to {high:.4g}")


def counts(numbers: Mapping[str, int], *, title: str, axis: str) -> Markup:
    """How often each of a few things happened, as bars that begin at 0 with their names above them."""
    most, total = max(numbers.values(), default=0), sum(numbers.values())
    if not most:
        return Markup("")
    scale, height = _axis([0.0, float(most)]), TOP + ROW * len(numbers)
    parts = [_frame(scale, height, axis)]
    for place, (name, count) in enumerate(numbers.items()):
        y = TOP + ROW * place + 20
        said = f"{count:,} ({count / total:.0%})"
        shown = name if len(name) <= 40 else name[:39] + "…"
        parts.append(
            tag(
                "g",
                tag("title", f"{name}: {said}"),
                tag("rect", x=LEFT, y=y, width=max(scale.at(count) - LEFT, 0.5), height=14, class_="bar"),
                tag("text", shown, x=LEFT + 6, y=y - 5),
                tag("text", said, x=WIDTH - RIGHT, y=y - 5, text_anchor="end", class_="said"),
                data_count=count,
            )
        )
    described = "; ".join(f"{name}: {count:,}" for name, count in numbers.items())
    return _svg(parts, height + BELOW, title, described)


def _axis(values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * some for some in (1, 2, 5, 10) if power * some >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 12) for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def _frame(scale: Axis, height: float, name: str) -> Markup:
    marks = [
        joined(
            tag("line", x1=scale.at(tick), x2=scale.at(tick), y1=TOP, y2=height, class_="grid"),
            tag(
                "text",
                f"{tick:g}",
                x=scale.at(tick),
                y=height + 18,
                text_anchor="middle",
                class_="tick",
                data_tick=tick,
            ),
        )
        for tick in scale.ticks
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return joined(*marks, tag("text", name, x=middle, y=height + 38, text_anchor="middle", class_="axis"))


def _upright(x: float, height: float, kind: str, name: str = "") -> Markup:
    return tag("line", tag("title", name or kind), x1=x, x2=x, y1=TOP, y2=height, class_=kind)


def _svg(parts: Sequence[Markup], height: float, title: str, described: str) -> Markup:
    drawn = tag(
        "svg", tag("title", title), tag("desc", described), *parts, viewBox=f"0 0 {WIDTH} {height:g}", role="img"
    )
    return tag("figure", tag("figcaption", title), drawn)

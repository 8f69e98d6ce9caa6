"""A load test as JSON and as a page of one file, with its plots inside, that asks nothing of any network."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llmops.markup import Markup, escaped, facts, grid, joined, tag
from llmops.serve.bench import Benched, Found
from llmops.serve.bench_summary import KINDS, Difference, Summary, times_of
from llmops.serve.page import document

_COLOURS = ("#2563a8", "#d9691e")
_GREY = "#9aa5b1"
_SHOWN = {**KINDS, "gap": "time between two pieces", "lag": "lateness of the load generator"}


def as_json(
    asked: Mapping[str, Any], benched: Sequence[Benched], differences: Sequence[Difference], found: Found | None
) -> dict[str, Any]:
    """All figures; times in seconds."""
    return {
        "asked": dict(asked),
        "targets": [{"url": one.url, **asdict(one.summary)} for one in benched],
        "differences": [asdict(one) for one in differences],
        "largest": None if found is None else asdict(found),
    }


def page(
    asked: Mapping[str, Any], benched: Sequence[Benched], differences: Sequence[Difference], found: Found | None
) -> str:
    """The page; `asked` is shown as it is given."""
    warnings = [
        tag(
            "p",
            f"The load generator may be what was measured at {one.url}: {one.summary.bottleneck}. "
            "Use a faster machine, or a lower rate.",
            class_="warning",
        )
        for one in benched
        if one.summary.bottleneck
    ]
    return document(
        "Load test",
        tag("p", " and ".join(one.url for one in benched), class_="lead"),
        *warnings,
        tag("h2", "Figures"),
        _figures(benched),
        *(_percentiles(one) for one in benched),
        _differences(differences),
        _largest(found),
        tag("h2", "Plots"),
        tag("div", *_plots(benched, found), class_="plots"),
        tag("h2", "What was asked"),
        facts({name: str(value) for name, value in asked.items()}),
        tag(
            "p",
            "Times count from when a request was to be sent, not from when it was: a server that stalls delays all "
            "that would have come meanwhile. Intervals have 95\N{NO-BREAK SPACE}% confidence, by order statistics; "
            "near a target's limit requests wait for each other, and the truth may lie further off.",
            class_="lead",
        ),
    )


def milliseconds(seconds: float | None) -> str:
    """`12.3 ms`, `1,234 ms`, `∞`; nothing for what is not known."""
    if seconds is None:
        return ""
    return f"{1000 * seconds:,.1f} ms" if seconds < 1 else f"{1000 * seconds:,.0f} ms"


def figures(summary: Summary) -> dict[str, str]:
    """What one target did, in words and numbers, by name."""
    failed = ", ".join(f"{count} {why}" for why, count in summary.failed.items())
    return {
        "requests a second, wanted": f"{summary.rate:,.2f}",
        "answered a second": f"{summary.achieved:,.2f}",
        "within the objective a second": f"{summary.good:,.2f}",
        "share within it": f"{summary.attained:.2%} [{summary.attained_low:.2%}, {summary.attained_high:.2%}]",
        "requests": f"{summary.requests:,}",
        "failed": failed or "none",
        "tokens written a second": f"{summary.tokens_per_s:,.1f}",
        "tokens read": f"{summary.prompt_tokens:,}",
        "generator's share of a processor": f"{summary.busy:.0%}",
    }


def _figures(benched: Sequence[Benched]) -> Markup:
    columns = [figures(one.summary) for one in benched]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return grid(["", *(one.url for one in benched)], rows, caption="Rates and counts")


def _percentiles(one: Benched) -> Markup:
    rows = []
    for kind, name in _SHOWN.items():
        points = one.summary.times[kind]
        if points:
            rows.append([name, *(_point(point.value, point.low, point.high) for point in points)])
    head = ["", *(f"p{100 * point.share:g}" for point in one.summary.times["lag"])]
    return grid(head, rows, caption=f"Times at {one.url}")


def _point(value: float, low: float | None, high: float | None) -> str:
    ends = [milliseconds(end).removesuffix(" ms") or "…" for end in (low, high)]
    return f"{milliseconds(value)} [{ends[0]}, {ends[1]}]"


def _differences(differences: Sequence[Difference]) -> Markup:
    if not differences:
        return Markup()
    rows = [
        [
            f"{KINDS[one.kind]}, p{100 * one.share:g}",
            *(f"{1000 * end:+,.1f} ms" for end in (one.value, one.low, one.high)),
        ]
        for one in differences
    ]
    return grid(["", "difference", "from", "to"], rows, caption="By how much the second is slower")


def _largest(found: Found | None) -> Markup:
    if found is None:
        return Markup()
    said = f"{found.rate:,.2f} requests/s" + (" or more" if found.open_ended else "")
    rows = [
        [f"{one.rate:,.2f}", f"{one.attained:.2%}", f"{one.achieved:,.2f}", one.bottleneck or ""]
        for one in found.trials
    ]
    headings = ["requests/s", "within the objective", "answered/s", "generator"]
    return joined(
        tag("h2", f"Largest load within the objective: {said}"), grid(headings, rows, caption="What was tried")
    )


def _plots(benched: Sequence[Benched], found: Found | None) -> list[Markup]:
    plots = [
        _plot("Time to the first token, by share of requests", lambda axes: _shares(axes, benched, "ttft")),
        _plot("Time to the last token, by share of requests", lambda axes: _shares(axes, benched, "e2e")),
        _plot("Time to the last token, as the test went on", lambda axes: _over_time(axes, benched)),
        _plot("Time between two pieces, by share of pieces", lambda axes: _shares(axes, benched, "gap")),
    ]
    if found is not None and found.trials:
        plots.append(_plot("Share within the objective, by rate", lambda axes: _trials(axes, found)))
    return plots


def _plot(title: str, draw: Callable[[Any], None]) -> Markup:
    """A picture as SVG inside the page, its words as paths: nothing of it is text that a server wrote."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(color=_GREY, labelsize=9)
    axes.grid(color="#e5e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    draw(axes)
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{escaped(title)}" ', 1)
    return tag("figure", tag("figcaption", title), Markup(svg))


def _shares(axes: Any, benched: Sequence[Benched], kind: str) -> None:
    """Each value over the share of requests that took less, the last of them drawn apart as in a tail."""
    for number, one in enumerate(benched):
        values = sorted(times_of([sent for load in one.loads for sent in load.sent])[kind])
        n = len(values)
        step = max(1, n // 2000)
        places = [*range(0, n, step), *([n - 1] if n else [])]
        axes.plot(
            [math.log10(n / (n - place)) for place in places],
            [1000 * values[place] for place in places],
            color=_COLOURS[number % 2],
            label=f"target {number + 1}",
        )
    ticks = [0.0, 0.5, 0.9, 0.99, 0.999]
    axes.set_xticks([-math.log10(1 - one) for one in ticks], [f"{100 * one:g} %" for one in ticks])
    _labels(axes, "share of requests that took less", "ms", len(benched))


def _over_time(axes: Any, benched: Sequence[Benched]) -> None:
    for number, one in enumerate(benched):
        offset = 0.0
        for load in one.loads:
            good = [sent for sent in load.sent if sent.error is None]
            step = max(1, len(good) // 3000)
            axes.plot(
                [offset + sent.intended for sent in good[::step]],
                [1000 * sent.latency for sent in good[::step]],
                ".",
                markersize=3,
                alpha=0.5,
                color=_COLOURS[number % 2],
                label=f"target {number + 1}" if not offset else None,
            )
            offset += max((sent.intended for sent in load.sent), default=0.0)
    _labels(axes, "s since the start of the target's rounds", "ms", len(benched))


def _trials(axes: Any, found: Found) -> None:
    trials = sorted(found.trials, key=lambda one: one.rate)
    axes.plot([one.rate for one in trials], [one.attained for one in trials], "o-", color=_COLOURS[0])
    axes.axvline(found.rate, color=_GREY, linestyle="--")
    _labels(axes, "requests a second", "share", 1)


def _labels(axes: Any, below: str, beside: str, targets: int) -> None:
    axes.set_xlabel(below)
    axes.set_ylabel(beside)
    axes.set_ylim(bottom=0)
    if targets > 1:
        axes.legend(frameon=False)

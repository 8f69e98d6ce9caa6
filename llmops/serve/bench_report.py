"""A load test as JSON and as a page of one file, with its plots inside, that asks nothing of any network."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llmops.serve.bench import Benched, Found
from llmops.serve.bench_summary import KINDS, Difference, Summary, times_of

_COLOURS = ("#2563a8", "#d9691e")
_GREY = "#9aa5b1"
_SHOWN = {**KINDS, "gap": "time between two pieces", "lag": "lateness of the load generator"}
_STYLE = """
:root { color-scheme: light; } body { margin: 0; background: #fcfcfa; color: #1d2126;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; } h1 { font-size: 1.7rem; margin: 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; } .scroll { overflow-x: auto; }
.warning { border-left: 4px solid #a8322a; padding: .5rem 1rem; background: #f9dedb; }
.lead, caption, dt, thead th { color: #565d66; } figure { margin: 0; min-width: 0; } svg { width: 100%; height: auto; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); gap: 1rem 2.5rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; } th, td { text-align: right; padding: .4rem 1rem .4rem 0;
  border-bottom: 1px solid #dcdfe3; white-space: nowrap; } th:first-child { text-align: left; font-weight: 500; }
dl div { display: grid; grid-template-columns: 14rem 1fr; gap: 1rem; border-bottom: 1px solid #dcdfe3; }
dd { margin: 0; overflow-wrap: anywhere; }
"""


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
        f'<p class="warning">The load generator may be what was measured at {_text(one.url)}: '
        f"{_text(one.summary.bottleneck)}. Use a faster machine, or a lower rate.</p>"
        for one in benched
        if one.summary.bottleneck
    ]
    parts = [
        "<h1>Load test</h1>",
        f'<p class="lead">{_text(" and ".join(one.url for one in benched))}</p>',
        *warnings,
        "<h2>Figures</h2>",
        _figures(benched),
        *(_percentiles(one) for one in benched),
        _differences(differences),
        _largest(found),
        f'<h2>Plots</h2><div class="plots">{"".join(_plots(benched, found))}</div>',
        "<h2>What was asked</h2><dl>"
        + "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in asked.items())
        + "</dl>",
        '<p class="lead">Times count from when a request was to be sent, not from when it was: a server that stalls '
        "delays all that would have come meanwhile. Intervals have 95&nbsp;% confidence, by order statistics; near a "
        "target's limit requests wait for each other, and the truth may lie further off.</p>",
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Load test</title>'
        f"<style>{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def milliseconds(seconds: float | None) -> str:
    """`12.3 ms`, `1,234 ms`, `∞`; nothing for what is not known."""
    if seconds is None:
        return ""
    return f"{1000 * seconds:,.1f} ms" if seconds < 1 else f"{1000 * seconds:,.0f} ms"


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f'<th scope="col">{_text(one)}</th>' for one in head)
    body = "".join(
        f'<tr><th scope="row">{_text(row[0])}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="scroll"><table><caption>{_text(caption)}</caption><thead><tr>{cells}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


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


def _figures(benched: Sequence[Benched]) -> str:
    columns = [figures(one.summary) for one in benched]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return _table("Rates and counts", ["", *(one.url for one in benched)], rows)


def _percentiles(one: Benched) -> str:
    rows = []
    for kind, name in _SHOWN.items():
        points = one.summary.times[kind]
        if points:
            rows.append([name, *(_point(point.value, point.low, point.high) for point in points)])
    head = ["", *(f"p{100 * point.share:g}" for point in one.summary.times["lag"])]
    return _table(f"Times at {one.url}", head, rows)


def _point(value: float, low: float | None, high: float | None) -> str:
    ends = [milliseconds(end).removesuffix(" ms") or "…" for end in (low, high)]
    return f"{milliseconds(value)} [{ends[0]}, {ends[1]}]"


def _differences(differences: Sequence[Difference]) -> str:
    if not differences:
        return ""
    rows = [
        [
            f"{KINDS[one.kind]}, p{100 * one.share:g}",
            *(f"{1000 * end:+,.1f} ms" for end in (one.value, one.low, one.high)),
        ]
        for one in differences
    ]
    return _table("By how much the second is slower", ["", "difference", "from", "to"], rows)


def _largest(found: Found | None) -> str:
    if found is None:
        return ""
    said = f"{found.rate:,.2f} requests/s" + (" or more" if found.open_ended else "")
    rows = [
        [f"{one.rate:,.2f}", f"{one.attained:.2%}", f"{one.achieved:,.2f}", one.bottleneck or ""]
        for one in found.trials
    ]
    return f"<h2>Largest load within the objective: {_text(said)}</h2>" + _table(
        "What was tried", ["requests/s", "within the objective", "answered/s", "generator"], rows
    )


def _plots(benched: Sequence[Benched], found: Found | None) -> list[str]:
    plots = [
        _plot("Time to the first token, by share of requests", lambda axes: _shares(axes, benched, "ttft")),
        _plot("Time to the last token, by share of requests", lambda axes: _shares(axes, benched, "e2e")),
        _plot("Time to the last token, as the test went on", lambda axes: _over_time(axes, benched)),
        _plot("Time between two pieces, by share of pieces", lambda axes: _shares(axes, benched, "gap")),
    ]
    if found is not None and found.trials:
        plots.append(_plot("Share within the objective, by rate", lambda axes: _trials(axes, found)))
    return plots


def _plot(title: str, draw: Callable[[Any], None]) -> str:
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
    svg = svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{_text(title)}" ', 1)
    return f"<figure><figcaption>{_text(title)}</figcaption>{svg}</figure>"


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

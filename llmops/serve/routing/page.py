"""The page of a report: the curve as SVG and its numbers in tables, in one file that asks nothing of any network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmops.markup import Markup, grid, tag
from llmops.serve.page import document
from llmops.serve.routing.graded import Graded
from llmops.serve.routing.judged import LEVELS, Judged
from llmops.serve.routing.router import Aim, Interval

_COLOURS = {"learned": "#2563a8", "length": "#d9691e", "random": "#6b7480", "oracle": "#1b7a43", "cascade": "#8a3ffc"}
_STYLES = {"learned": "-", "length": "--", "random": ":", "oracle": "-.", "cascade": (0, (5, 1))}
_MOST = 400
"""Points of a line that are drawn."""


def page(graded: Graded, found: Judged, aim: Aim, *, sentences: Sequence[str], repeat: str) -> str:
    """The whole page.

    Args:
        sentences: what is found, in words, as the command line says it.
        repeat: the command that makes it again.
    """
    finding = "finding open" if found.beats_length.low <= 0 else "finding"
    return document(
        f"Routing between {graded.small_name} and {graded.large_name}",
        tag(
            "p",
            f"{len(graded):,} prompts of {graded.source}; the small model is right in {graded.small.mean():.1%}, the "
            f"large one in {graded.large.mean():.1%}.",
        ),
        *(tag("p", one, class_=finding) for one in sentences),
        tag("h2", "Quality against calls to the large model"),
        tag("figure", Markup(drawn(graded, found, "svg").decode()), role="img", aria_label=_described(found)),
        grid(
            ["", "APGR", *(f"CPT {level:.0%}" for level in LEVELS)],
            [
                [line.name, said(line.apgr), *(said(line.calls_for[level], percent=True) for level in LEVELS)]
                for line in found.lines
            ],
            caption="Mean share of the gap recovered (APGR), and the share of calls that recovers half and 80 % of it "
            "(CPT 50 %, CPT 80 %), with 95 % bootstrap intervals",
        ),
        tag("h2", "What the threshold gives"),
        grid(["", "value"], expected_rows(found, aim), caption="On held-out prompts, with 95 % bootstrap intervals"),
        tag("h2", "How far the chances can be believed"),
        grid(
            ["chance of", "error"],
            [[name, f"{value:.3f}"] for name, value in found.calibration.items()],
            caption="Expected calibration error, over ten bins of as many prompts",
        ),
        tag("h2", "Again"),
        tag("p", tag("code", repeat)),
        tag(
            "p",
            "Formulae: Ong et al. 2024, RouteLLM, arXiv 2406.18665, section 3.1; APGR here is the area under the "
            "whole curve, there a sum over ten points of it.",
        ),
    )


def _described(found: Judged) -> str:
    """The picture, for those who do not see it."""
    lines = ", ".join(f"{line.name} with an APGR of {line.apgr.value:.3f}" for line in found.lines)
    return f"Quality against the share of calls to the large model: {lines}"


def said(one: Interval, *, percent: bool = False) -> str:
    """A value with its interval, for people."""
    shown = ".1%" if percent else ".3f"
    if one.low == one.high == one.value:
        return format(one.value, shown)
    return f"{one.value:{shown}} [{one.low:{shown}}, {one.high:{shown}}]"


def expected_rows(found: Judged, aim: Aim) -> list[list[str]]:
    """What a threshold gives, as rows of a table."""
    gives = found.expected
    floor = f"at least {aim.value:.1%} of the large model's quality, shown at {aim.confidence:.0%}"
    ceiling = f"at most {aim.value:.1%} of the large model's cost"
    return [
        ["asked for", floor if aim.kind == "quality" else ceiling],
        ["quality, of the large model's", said(gives.quality, percent=True)],
        ["calls to the large model", said(gives.large_share, percent=True)],
        [f"saving, with the small model at {aim.small_cost:.0%} of the cost", said(gives.saving, percent=True)],
        ["false-cheap: small was wrong where large was right", said(gives.false_cheap, percent=True)],
    ]


def drawn(graded: Graded, found: Judged, kind: str) -> bytes:
    """The curves as a picture.

    Args:
        kind: `svg` (for a page; without a heading of its own) or `png`.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The same numbers give the same bytes: ids from a fixed salt, no date.
    with matplotlib.rc_context({"svg.hashsalt": "llmops", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.6, 4.6), dpi=144, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _curves(axes, graded, found)
        written = io.BytesIO()
        metadata: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(written, format=kind, metadata=metadata)
    content = written.getvalue()
    return content[content.index(b"<svg") :] if kind == "svg" else content


def write_picture(file: Path, graded: Graded, found: Judged) -> None:
    """The curves as a file, PNG or SVG by its name."""
    from llmops.files import write_bytes

    if file.suffix == ".svg":
        write_bytes(file, b'<?xml version="1.0" encoding="utf-8"?>\n' + drawn(graded, found, "svg"))
    else:
        write_bytes(file, drawn(graded, found, "png"))


def _curves(axes: Any, graded: Graded, found: Judged) -> None:
    import numpy as np

    low, high = float(graded.small.mean()), float(graded.large.mean())
    shares = np.linspace(0, 1, _MOST)
    for line in found.lines:
        quality = low + (high - low) * line.curve.recovered_at(shares)
        style = {"color": _COLOURS[line.name], "linestyle": _STYLES[line.name], "linewidth": 1.8}
        axes.plot(100 * shares, 100 * quality, label=f"{line.name}, APGR {line.apgr.value:.3f}", **style)
    gives = found.expected
    axes.plot(100 * gives.large_share.value, 100 * gives.quality.value * high, "o", color=_COLOURS["learned"])
    axes.annotate(
        "the threshold",
        (100 * gives.large_share.value, 100 * gives.quality.value * high),
        textcoords="offset points",
        xytext=(-8, 9),
        ha="right",
        fontsize=9,
    )
    axes.set_xlabel("calls to the large model, %")
    axes.set_ylabel("quality, %")
    axes.grid(color="#e5e8eb", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=9)

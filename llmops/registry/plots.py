"""Pictures of a run: loss, learning rate, gradient norm and lengths of rows, as PNG files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llmops.records import Step

_BLUE, _ORANGE, _GREY = "#2563a8", "#d9691e", "#9aa5b1"
_MANY = 60


def plots(
    steps: Sequence[Step], lengths: Sequence[int], out: Path, *, unit: str = "nats per trained token"
) -> list[Path]:
    """Draw what there is to draw into the folder `out`; returns the files.

    Args:
        steps: in order; a value that is not finite leaves a gap.
        lengths: tokens of each training row.
        unit: what the loss is counted in.
    """
    out.mkdir(parents=True, exist_ok=True)
    made = []
    if steps:
        made.append(_picture(out / "loss.png", lambda axes: _loss(axes, steps, unit)))
        made.append(_picture(out / "learning_rate.png", lambda axes: _learning_rate(axes, steps)))
        made.append(_picture(out / "gradient_norm.png", lambda axes: _gradient_norm(axes, steps)))
        if names := list(dict.fromkeys(name for step in steps for name in step.measures)):
            draws = [partial(_measure, steps=steps, name=name) for name in names]
            made.append(_picture(out / "measures.png", *draws))
    if lengths:
        made.append(_picture(out / "lengths.png", lambda axes: _lengths(axes, lengths)))
    return made


def _picture(path: Path, *draws: Callable[[Any], None]) -> Path:
    """One frame a function, one below the other."""
    # pyplot keeps global state and may look for a display; a bare figure does neither.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 4.0 if len(draws) == 1 else 2.4 * len(draws)
    figure = Figure(figsize=(7.2, height), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, draw in zip(figure.subplots(len(draws), squeeze=False)[:, 0], draws, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_GREY)
        axes.tick_params(color=_GREY, labelsize=9)
        axes.grid(axis="y", color="#e5e8eb", linewidth=0.8)
        axes.set_axisbelow(True)
        draw(axes)
    figure.savefig(path, format="png", metadata={"Software": None})
    return path


def _loss(axes: Any, steps: Sequence[Step], unit: str) -> None:
    losses = [step.loss for step in steps]
    where = [step.index for step in steps]
    many = len(steps) > _MANY
    axes.plot(where, losses, color=_BLUE, linewidth=1, alpha=0.3 if many else 1, label="training" if not many else None)
    if many:
        axes.plot(where, smoothed(losses), color=_BLUE, linewidth=2, label="training, smoothed")
    validated = [step for step in steps if step.validation_loss is not None]
    if validated:
        marks = [step.validation_loss for step in validated]
        axes.plot(
            [step.index for step in validated],
            marks,
            color=_ORANGE,
            marker="o",
            markersize=5,
            linewidth=1.5,
            label="validation",
        )
    _frame(axes, "Loss", unit, steps)
    axes.legend(frameon=False, fontsize=9)


def _measure(axes: Any, *, steps: Sequence[Step], name: str) -> None:
    """One of the method's measures, in training and on held-out rows."""
    for those, color, label in (
        ([(step.index, step.measures.get(name)) for step in steps], _BLUE, "training"),
        ([(step.index, step.validation_measures.get(name)) for step in steps], _ORANGE, "validation"),
    ):
        found = [(index, value) for index, value in those if value is not None]
        if found:
            marker = "o" if label == "validation" else None
            axes.plot(*zip(*found, strict=True), color=color, linewidth=1.5, marker=marker, markersize=5, label=label)
    _frame(axes, name.replace("_", " ").capitalize(), "", steps)
    axes.legend(frameon=False, fontsize=9)


def _learning_rate(axes: Any, steps: Sequence[Step]) -> None:
    axes.plot([step.index for step in steps], [step.learning_rate for step in steps], color=_BLUE, linewidth=2)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.set_ylim(bottom=0)
    _frame(axes, "Learning rate", "size of an update", steps)


def _gradient_norm(axes: Any, steps: Sequence[Step]) -> None:
    norms = [step.grad_norm for step in steps]
    where = [step.index for step in steps]
    many = len(steps) > _MANY
    axes.plot(where, norms, color=_BLUE, linewidth=1, alpha=0.3 if many else 1)
    if many:
        axes.plot(where, smoothed(norms), color=_BLUE, linewidth=2, label="smoothed")
        axes.legend(frameon=False, fontsize=9)
    positive = [norm for norm in norms if math.isfinite(norm) and norm > 0]
    if positive and max(positive) > 100 * min(positive):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    _frame(axes, "Gradient norm, before clipping", "norm of the whole gradient", steps)


def _lengths(axes: Any, lengths: Sequence[int]) -> None:
    ordered = sorted(lengths)
    longest = ordered[-1]
    # Bars of a whole number of lengths: others would hold now two, now three of them.
    width = math.ceil((longest - ordered[0] + 1) / 50)
    edges = [ordered[0] - 0.5 + width * number for number in range((longest - ordered[0]) // width + 2)]
    axes.hist(ordered, bins=edges, color=_BLUE, edgecolor="white", linewidth=0.5)
    top = axes.get_ylim()[1] * 1.12
    axes.set_ylim(0, top)
    for share, name in ((0.5, "median"), (0.95, "95th percentile")):
        value = ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
        axes.axvline(value, color=_ORANGE, linewidth=1.2, linestyle="--")
        left = value < (ordered[0] + longest) / 2
        axes.annotate(
            f"{name}: {value:,}",
            (value, top * (0.97 if share == 0.5 else 0.90)),
            xytext=(4 if left else -4, 0),
            textcoords="offset points",
            ha="left" if left else "right",
            va="center",
            fontsize=9,
            color=_ORANGE,
        )
    axes.set_title(f"Length of {len(ordered):,} training rows", loc="left", fontsize=11)
    axes.set_xlabel("tokens")
    axes.set_ylabel("rows")
    _whole_numbers(axes.xaxis)
    _whole_numbers(axes.yaxis)


def _frame(axes: Any, title: str, unit: str, steps: Sequence[Step]) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(f"updates ({steps[-1].epoch:.3g} epochs)")
    axes.set_ylabel(unit)
    axes.margins(x=0.02)
    _whole_numbers(axes.xaxis)


def _whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbours on both sides, as many as there are up to a sixtieth of all values.

    Centred, so that the line does not lag behind. A value that is not finite is left out of
    the means and leaves a gap in its own place.
    """
    half = max(1, len(values) // 60)
    sums, counts = [0.0], [0]
    for value in values:
        finite = math.isfinite(value)
        sums.append(sums[-1] + (value if finite else 0.0))
        counts.append(counts[-1] + finite)
    out = []
    for place, value in enumerate(values):
        reach = min(half, place, len(values) - 1 - place)
        first, last = place - reach, place + reach + 1
        mean = (sums[last] - sums[first]) / max(1, counts[last] - counts[first])
        out.append(mean if math.isfinite(value) else math.nan)
    return out

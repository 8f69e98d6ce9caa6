"""How a campaign's page writes numbers, times and what is not known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

from llmops.markup import Markup, tag
from llmops.stats import Estimate


def day_and_time(at: float) -> str:
    """A time as people read it, in UTC, to the minute."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def share_of(found: Estimate | None) -> str:
    """A share in per cent with its 95 % interval; a dash where nothing could be measured."""
    if found is None or not math.isfinite(found.value):
        return "–"
    low, high = found.interval(0.95)
    return f"{found.value:.0%} ({max(low, 0):.0%} to {min(high, 1):.0%})"


def number_of(found: Estimate | None, *, confidence: float = 0.95) -> str:
    """A number with its interval; a dash where nothing could be measured."""
    if found is None or not math.isfinite(found.value):
        return "–"
    low, high = (_end(end) for end in found.interval(confidence))
    return f"{found.value:.2f} ({low} to {high})"


def _end(value: float) -> str:
    if math.isfinite(value):
        return f"{value:.2f}"
    return "−∞" if value < 0 else "∞"


def span_of(seconds: float) -> str:
    """A length of time in its largest unit: `40 minutes`, `3.2 hours`, `6.0 days`."""
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 2 * 86_400 else f"{seconds / 86_400:.1f} days"


def none(said: str) -> Markup:
    """Words in the place of figures that there are not."""
    return tag("p", said, class_="quiet")


def facts(pairs: Mapping[str, str]) -> Markup:
    """Named figures side by side."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs.items()), class_="facts")

"""Items as a page holds them: data for its script, and the first of them as they stand without it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from llmops.eval.measured import Answered, Measured
from llmops.eval.measures import repetition
from llmops.eval.pages.markup import Markup, joined, tag

SHOWN = 50
"""Items at one time."""
REPEATS = 0.5
"""Share of an answer's runs of four words that stood in it before, from which it counts as repeated."""


def problems(item: Answered) -> list[str]:
    """What is wrong with an answer at first sight: `truncated` at the limit, `empty`, `repeated`."""
    found = ["truncated"] if item.finish == "length" else []
    if not item.answer.strip():
        found.append("empty")
    elif repetition(item.answer) >= REPEATS:
        found.append("repeated")
    return found


def data(reports: Sequence[Measured]) -> dict[str, Any]:
    """What the script shows, of one report or of two with the same items in one order."""
    first = reports[0]
    names = [metric.name for metric in first.metrics]
    return {
        "models": [report.name for report in reports],
        "metrics": names,
        "items": [
            {
                "id": together[0].id,
                "prompt": together[0].prompt,
                "references": list(together[0].references),
                "slices": [f"{name}={value}" for name, value in together[0].slices.items()],
                "answers": [one.answer for one in together],
                "problems": [problems(one) for one in together],
                "scores": [[_number(one.scores.get(name)) for name in names] for one in together],
            }
            for together in zip(*(report.items for report in reports), strict=True)
        ],
    }


def embedded(content: dict[str, Any]) -> Markup:
    """The data block; no text in it can end it, since `<` is written as an escape."""
    written = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        written = written.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(f'<script type="application/json" id="data">{written}</script>')


def section(content: dict[str, Any]) -> Markup:
    """The controls, which the script fills, and the first items."""
    items = content["items"]
    return tag(
        "section",
        tag("h2", "Items", id="items-heading"),
        tag("form", role="search", id="controls", aria_label="Find items", hidden="hidden"),
        tag("p", f"{min(SHOWN, len(items)):,} of {len(items):,} items", id="count", role="status"),
        tag("ol", *(_item(one, content) for one in items[:SHOWN]), id="items"),
        tag("nav", id="pager", aria_label="Pages of items", hidden="hidden"),
        aria_labelledby="items-heading",
    )


def _item(one: dict[str, Any], content: dict[str, Any]) -> Markup:
    names = content["models"]
    parts: list[Markup] = [_text("prompt", one["prompt"])]
    parts += [_text("reference", text) for text in one["references"]]
    for name, answer, wrong, scores in zip(names, one["answers"], one["problems"], one["scores"], strict=True):
        known = [
            f"{metric} {score}" for metric, score in zip(content["metrics"], scores, strict=True) if score is not None
        ]
        parts.append(_text(name, answer, ", ".join([*wrong, *known])))
    return tag("li", tag("article", tag("p", " · ".join([one["id"][:12], *one["slices"]]), class_="meta"), *parts))


def _text(heading: str, text: str, note: str = "") -> Markup:
    return joined(
        tag("h3", heading, *([tag("small", note)] if note else [])),
        tag("p", text or "(empty)", class_="text", dir="auto"),
    )


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)

"""Items as a page holds them: data for its script, and the first of them as they stand without it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from llmops.eval.measured import Answered, Measured
from llmops.eval.measures import repetition
from llmops.eval.report import shape_of
from llmops.markup import Markup, joined, tag

SHOWN = 50
"""Items at one time."""
REPEATS = 0.5
"""Share of an answer's runs of four words that stood in it before, from which it counts as repeated."""

_WITHOUT_SCRIPT = tag("noscript", tag("p", "Search, order and the other items need JavaScript; the JSON has them all."))


def problems(item: Answered) -> list[str]:
    """What is wrong with an answer at first sight: `truncated` at the limit, `empty`, `repeated`."""
    found = ["truncated"] if item.finish == "length" else []
    if not item.answer.strip():
        found.append("empty")
    elif repetition(item.answer) >= REPEATS:
        found.append("repeated")
    return found


def data(reports: Sequence[Measured]) -> dict[str, Any]:
    """What the script shows, of one report or of two with the same items in one order.

    `contexts` holds the turns before the last one, each conversation once: examples are the same for many items.
    """
    first = reports[0]
    names = [metric.name for metric in first.metrics if metric.by_item]
    every = [item.scores for report in reports for item in report.items]
    contexts: dict[tuple[tuple[str, str], ...], int] = {}
    content: dict[str, Any] = {
        "models": [report.name for report in reports]
        if len(reports) == 1
        else [f"{report.name} ({place})" for report, place in zip(reports, ("first", "second"), strict=True)],
        "metrics": names,
        # `.2f` and `.4f`: as many digits as the tables give the metric.
        "digits": [int(shape_of([of[name] for of in every if name in of])[1]) for name in names],
        "items": [
            {
                "id": together[0].id,
                "prompt": str(together[0].messages[-1]["content"]),
                "context": contexts.setdefault(_before(together[0]), len(contexts)),
                "references": list(together[0].references),
                "slices": [f"{name}={value}" for name, value in together[0].slices.items()],
                "answers": [one.answer for one in together],
                "problems": [problems(one) for one in together],
                "scores": [[_number(one.scores.get(name)) for name in names] for one in together],
            }
            for together in zip(*(report.items for report in reports), strict=True)
        ],
    }
    return {**content, "contexts": list(contexts)}


def _before(item: Answered) -> tuple[tuple[str, str], ...]:
    return tuple((str(turn["role"]), str(turn["content"])) for turn in item.messages[:-1])


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
        *([_WITHOUT_SCRIPT] if len(items) > SHOWN else []),
        tag("p", f"{min(SHOWN, len(items)):,} of {len(items):,} items", id="count", role="status"),
        tag("ol", *(_item(one, content) for one in items[:SHOWN]), id="items"),
        tag("nav", id="pager", aria_label="Pages of items", hidden="hidden"),
        aria_labelledby="items-heading",
    )


def _item(one: dict[str, Any], content: dict[str, Any]) -> Markup:
    parts = []
    if before := content["contexts"][one["context"]]:
        parts.append(_more("earlier turn", [joined(*(_text(role, said) for role, said in before))], len(before)))
    parts.append(_text("prompt", one["prompt"]))
    parts += [_text("reference", text) for text in one["references"][:1]]
    if others := one["references"][1:]:
        parts.append(_more("more reference", [_text("reference", text) for text in others], len(others)))
    answers = []
    for name, answer, wrong, scores in zip(
        content["models"], one["answers"], one["problems"], one["scores"], strict=True
    ):
        known = [
            f"{metric} {score:.{digits}f}"
            for metric, digits, score in zip(content["metrics"], content["digits"], scores, strict=True)
            if score is not None
        ]
        answers.append(tag("div", _text(name, answer, " · ".join(known), wrong)))
    head = tag("p", " · ".join([one["id"][:12], *one["slices"]]), class_="meta")
    return tag("li", tag("article", head, *parts, tag("div", *answers, class_="answers")))


def _more(what: str, parts: Sequence[Markup], count: int) -> Markup:
    return tag("details", tag("summary", f"{count} {what}{'' if count == 1 else 's'}"), *parts)


def _text(heading: str, text: str, note: str = "", wrong: Sequence[str] = ()) -> Markup:
    marks = [tag("span", name, class_="problem") for name in wrong]
    said = tag("p", text, class_="text", dir="auto") if text else tag("p", "(empty)", class_="text none")
    return joined(tag("h3", heading, *marks), *([tag("p", note, class_="note")] if note else []), said)


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)

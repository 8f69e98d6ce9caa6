"""A campaign's ratings as a csv for spreadsheets: one row for each rating, pseudonyms only."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from llmops.feedback.cells import safe_cell
from llmops.feedback.items import Rated, Rating
from llmops.feedback.labels import spoken
from llmops.feedback.sides import by_place

COLUMNS = (
    "item", "prompt", "models", "rater", "at", "kind", "verdict", "skip", "flag", "tags", "comment", "seconds",
    "surplus",
)  # fmt: skip


def write_sheet(file: Path, rated: Iterable[Rated]) -> int:
    """Write the ratings, in the order of items; how many. No cell is taken for a formula, whatever was written in it.

    Verdicts are of answers in the order they are stored: `+2` prefers the first.
    """
    written = 0
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as out:
        sheet = csv.writer(out)
        sheet.writerow(COLUMNS)
        for one in rated:
            for rating in one.ratings:
                sheet.writerow([safe_cell(value) for value in _row(one, rating)])
                written += 1
    return written


def _row(rated: Rated, rating: Rating) -> list[object]:
    said, item = rating.content, rated.item
    verdict = said.get("verdict")
    return [
        item.id,
        str(item.prompt[-1]["content"]),
        ", ".join(response.model or "?" for response in item.responses),
        rating.rater,
        datetime.fromtimestamp(rating.at, UTC).isoformat(timespec="seconds"),
        rating.kind,
        "" if verdict is None else spoken(by_place(verdict, rating.shown)),
        said.get("skip") or "",
        said.get("flag") or "",
        ", ".join(said.get("tags", ())),
        said.get("comment", ""),
        said.get("active_ms", 0) / 1000,
        "yes" if rating.surplus else "",
    ]

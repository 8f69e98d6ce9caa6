"""A sheet holds every rating once, over stored sides, and no cell of it is a formula."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from llmops.feedback.cells import safe_cell
from llmops.feedback.sheet import COLUMNS, write_sheet
from tests.feedback.rated_items import item, pair, said

FORMULA = '=HYPERLINK("http://evil.example","see")'


def test_every_rating_is_a_row_and_sides_are_those_stored(tmp_path: Path) -> None:
    turned = said(pair(-2), "ann", shown=(1, 0))
    rated = item(turned, said(None, "bob", skip="not my field"), said(pair(0), "cid", surplus=True))
    file = tmp_path / "new" / "ratings.csv"
    assert write_sheet(file, [rated]) == 3
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["rater"], row["verdict"], row["skip"], row["surplus"]) for row in rows] == [
        ("ann", "+2", "", ""), ("bob", "", "not my field", ""), ("cid", "tie", "", "yes"),
    ]  # fmt: skip
    assert {row["models"] for row in rows} == {"model0, model1"}


def test_nothing_that_was_written_is_a_formula(tmp_path: Path) -> None:
    rating = said(pair(1), FORMULA, flag=FORMULA)
    rating = replace(rating, content={**rating.content, "comment": FORMULA, "tags": [FORMULA]})
    write_sheet(tmp_path / "ratings.csv", [item(rating, prompt=({"role": "user", "content": FORMULA},))])
    with (tmp_path / "ratings.csv").open(newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert [row[name] for name in ("prompt", "rater", "flag", "tags", "comment")] == [f"'{FORMULA}"] * 5
    assert all(safe_cell(cell) == cell for cell in row.values()), "what is safe stays as it is"

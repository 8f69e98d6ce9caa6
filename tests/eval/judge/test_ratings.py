"""Human ratings are read on the rubric's scale, whoever wrote the table; what cannot be used is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llmops.data.section import Origin
from llmops.errors import InputError
from llmops.eval.judge.ratings import Columns, Rated, Ratings, ratings_in, ratings_of
from llmops.rubric import Rubric
from tests.eval.judge.rubrics import ATTRIBUTES, FORCED, LIKERT, PAIRWISE, SEVERAL

PAIR = {"prompt": "p", "first": "one", "second": "two"}
ONE = {"prompt": "p", "answer": "a"}


def read(rubric: Rubric, *rows: Mapping[str, Any], **columns: Any) -> Ratings:
    return ratings_of(enumerate(rows, 1), rubric, Columns(**columns), name="r.jsonl")


@pytest.mark.parametrize(
    ("rubric", "cell", "rating"),
    [
        (PAIRWISE, 3, "A"),
        (PAIRWISE, -1, "B"),
        (PAIRWISE, 0, "TIE"),
        (PAIRWISE, "TIE", "TIE"),
        (PAIRWISE, "-2", "B"),
        (LIKERT, 4, 4),
        (LIKERT, "4.0", 4),
        (ATTRIBUTES, {"right": "yes", "rude": "no"}, {"right": "yes", "rude": "no"}),
        (ATTRIBUTES, '{"right": true, "rude": false}', {"right": "yes", "rude": "no"}),
        (SEVERAL, '{"right": 3, "clear": "1.0"}', {"right": 3, "clear": 1}),
    ],
)
def test_a_rating_is_a_choice_a_step_of_it_a_mark_or_yes_and_no(rubric: Rubric, cell: Any, rating: Any) -> None:
    (found,) = read(rubric, {**PAIR, **ONE, "rating": cell}).rated
    assert found.ratings == (rating,)


@pytest.mark.parametrize(
    ("rubric", "cell"),
    [(PAIRWISE, 4), (PAIRWISE, "first"), (FORCED, 0), (LIKERT, 0), (LIKERT, 2.5), (LIKERT, True), (ATTRIBUTES, "yes")],
)
def test_one_that_is_not_on_the_scale_is_refused_with_its_line(rubric: Rubric, cell: Any) -> None:
    good = {"right": "yes", "rude": "no"} if rubric is ATTRIBUTES else 1
    with pytest.raises(InputError, match=r"r\.jsonl:2: the rating .* is not on the scale"):
        read(rubric, {**PAIR, **ONE, "rating": good}, {**PAIR, **ONE, "rating": cell})


def test_several_raters_of_one_thing_are_one_thing_and_a_turned_pair_is_turned_back() -> None:
    turned = {"prompt": "p", "first": "two", "second": "one", "rating": -2}
    other = {**PAIR, "prompt": "another", "rating": 0}
    found = read(PAIRWISE, {**PAIR, "rating": 1}, turned, other, {**PAIR, "rating": "B"})
    assert found.rated == (
        Rated("p", ("one", "two"), ("A", "A", "B")),
        Rated("another", ("one", "two"), ("TIE",)),
    )
    assert found.clusters == [0, 1]


def test_columns_may_be_called_anything_and_hold_anything() -> None:
    row = {"instruction": "i", "input": "x", "r1": "one", "r2": "two", "ann": 0, "bob": 2, "eve": None}
    columns = {"prompt": "{instruction}\n{input}", "first": "{r1}", "second": "{r2}", "ratings": ("ann", "bob", "eve")}
    found = read(PAIRWISE, row, **columns, means={"0": "TIE", "1": "A", "2": "B"})
    assert found.rated == (Rated("i\nx", ("one", "two"), ("TIE", "B")),)


def test_rows_without_a_rating_or_with_what_is_no_text_are_left_out_and_named() -> None:
    found = read(PAIRWISE, {**PAIR, "rating": None}, {**PAIR, "first": False, "rating": 1}, {**PAIR, "rating": 1})
    assert len(found.rated) == 1
    assert found.left_out == ("r.jsonl:1: no rating", "r.jsonl:2: column `first` holds true or false, not text")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"promt": "p", "rating": 1}, "no column `prompt`; did you mean `promt`"),
        ({**PAIR, "ratings": 1}, "no column `rating`; did you mean `ratings`"),
        ({**PAIR, "rating": ""}, "holds no ratings"),
    ],
)
def test_a_missing_column_is_named_with_the_nearest(row: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(PAIRWISE, row)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_they_come_from_any_table(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"r.{ending}"
    if ending == "jsonl":
        file.write_text(json.dumps({**ONE, "rating": 4}) + "\n")
    elif ending == "csv":
        file.write_text("prompt,answer,rating\np,a,4\n")
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"prompt": ["p"], "answer": ["a"], "rating": [4]}), file)
    assert ratings_in(Origin(source=str(file)), LIKERT, Columns()).rated == (Rated("p", ("a",), (4,)),)


def test_the_digest_is_of_what_was_said_of_what_in_any_order() -> None:
    one, two = {**ONE, "rating": 4}, {**ONE, "prompt": "q", "rating": 2}
    assert read(LIKERT, one, two).digest == read(LIKERT, two, one).digest
    assert read(LIKERT, one, two).digest != read(LIKERT, one, {**two, "rating": 3}).digest

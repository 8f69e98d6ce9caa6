"""The number an answer ends in is found as people mark it, and the published labels of GSM8K come out of it."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import InputError
from llmops.eval.numbers import final_number
from llmops.eval.scorers.text import Number
from tests.eval.measurements import answered

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def test_all_5276_published_labels_are_reproduced() -> None:
    solutions, questions = GSM8K / "example_model_solutions.jsonl", GSM8K / "test.jsonl"
    if not solutions.is_file():
        pytest.skip(f"the answers to GSM8K are not at {solutions}")
    rows = [json.loads(line) for line in solutions.read_text().splitlines()]
    worked = {one["question"]: one["answer"] for one in map(json.loads, questions.read_text().splitlines())}
    references = [[worked[row["question"]]] for row in rows]
    checked = 0
    for model in MODELS:
        (metric,) = Number().measure(answered([row[model]["solution"] for row in rows], references))
        labels = [float(row[model]["is_correct"]) for row in rows]
        assert metric.per_item.tolist() == labels
        checked += len(labels)
    assert checked == 5276


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("So she makes 18 dollars.\n#### 18", 18),
        ("#### 1,234,567", 1234567),
        ("the answer is $1,000.50.", Fraction(2001, 2)),
        ("The answer is: -3", -3),
        ("thus \\boxed{42} and 7 more words", 42),
        ("A: 224", 224),
        ("first 3, then 5", 5),
        ("#### 5\nQuestion: what is 2 + 2?", 5),
        ("it is 1/2", Fraction(1, 2)),
        ("#### .5", Fraction(1, 2)),
        ("costs €20", 20),
        ("\n− 4", -4),
        ("7/0", 7),
        ("#### none, so 9", 9),
        ("no number", None),
        ("", None),
        ("item v2 has none", None),
    ],
)
def test_the_number_of_a_text(text: str, number: Fraction | int | None) -> None:
    assert final_number(text) == number


@given(st.integers(-(10**9), 10**9), st.booleans())
def test_whatever_is_marked_is_found(number: int, commas: bool) -> None:
    assert final_number(f"3 apples cost 5.\n#### {number:{',' if commas else ''}}") == number


def test_equal_numbers_are_equal_however_they_are_written() -> None:
    (metric,) = Number().measure(
        answered(["#### 0.5", "#### 2.50", "#### 10", "nothing"], [["1/2"], ["2.5"], ["11"], ["1"]])
    )
    assert metric.per_item.tolist() == [1, 1, 0, 0]
    assert metric.binary


def test_a_tolerance_is_a_share_of_the_reference() -> None:
    (metric,) = Number(tolerance=0.1).measure(answered(["90", "89", "110"], [["100"], ["100"], ["100"]]))
    assert metric.per_item.tolist() == [1, 0, 1]


def test_a_reference_without_a_number_is_refused() -> None:
    with pytest.raises(InputError, match="'seven' holds no number"):
        Number().measure(answered(["7"], [["seven"]]))
